"""Every stage makes what it made before: values of a small twin against those in `golden.json`.

If this fails, code changed the results of a stage. Where that is meant, raise the stage's number in
`workflow/recipes.yaml` and write the values anew: `python -m tests.golden.test_golden`.

No processor decides. Prompts and verdicts are exact. Ids and step maps are exact for the items that stay the same when
all weights of the model move by 1e-4 of their size (three times, when the file is written); a processor moves them by
1e-7. Losses, gradient norms and gaps agree to 1e-4.
"""

import hashlib
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from t3d.evaluation import answers, scores
from t3d.models import autoregressive
from t3d.params import Experiment, load
from t3d.prompts.reader import read_prompts
from t3d.provenance import store, writer
from t3d.provenance.recipes import KINDS
from t3d.trajectories import rollout
from tests.artefacts import made
from tests.autoregressive import answered, content_of, experiment_file, experiment_of, write_causal
from tests.conftest import SHIPPED
from tests.training import SMALL, small_corpus

GOLDEN = Path(__file__).with_name("golden.json")
DECODED = ("generations", "trajectories", "answers")
OBJECTIVES: dict[str, dict[str, Any]] = {
    "redi": {"states": {"kind": "random", "complement": True}},
    "dparallel": {"states": {"kind": "full"}, "objective": {"entropy_weight": 2.0}},
    "naive_td": {"states": {"kind": "trajectory", "mask_ratios": "uniform"}, "objective": {"path_weight": 0.2}},
    "ddo": {"states": {"kind": "trajectory", "random_tokens": 0.1}, "objective": {"refresh_every": 1}},
    "t3d": {"states": {"kind": "trajectory"}, "objective": {"refresh_every": 1}},
}


def twin() -> Experiment:
    """Few questions, and every objective, sampling and kind of budget that results are made with."""
    optimizer = {"steps": 2, "batch_size": 2, "micro_batch_size": 1, "learning_rate": 4e-4, "warmup_steps": 1}
    student = {"label": "S", "optimizer": optimizer, "block_size": 8}
    small = {"teacher": "pocket", "difficulty": {"max_steps": 2, "max_number": 99}}
    students = {
        name: student
        | {"trajectories": ["gsm", "code"], **given, "objective": {"name": name} | given.get("objective", {})}
        for name, given in OBJECTIVES.items()
    }
    states, sft = OBJECTIVES["t3d"]["states"], {"objective": {"name": "sft"}, "states": {"kind": "random"}}
    released = {"recipe": "released", "trajectories": ["b4"], "objective": {"name": "t3d"}, "states": states}
    benchmark = {"label": "B", "prompts": "test", "task": "gsm_boxed", "max_new_tokens": 40}
    warm = {"temperature": 0.3, "confidence": "tempered", "prompt_guard": False, "top_p": 0.95, "top_k": 50}
    return Experiment(
        name="golden",
        device="cpu",
        teachers={
            "pocket": {"source": "shipped", "path": str(SHIPPED)},
            "tiny": {"source": "pretrain", "pretraining": SMALL.model_copy(update={"steps": 4})},
        },
        prompt_sets={
            "gsm": small | {"split": "train", "count": 6, "suffix": " Think."},
            "code": small | {"split": "train", "count": 4, "domain": "code"},
            "test": small | {"split": "test", "count": 8},
            "functions": small | {"split": "test", "count": 4, "domain": "code"},
            "humaneval": {"teacher": "pocket", "split": "test", "count": 2, "domain": "humaneval"},
        },
        trajectories={
            "gsm": {"prompts": "gsm", "budget": "b8s8", "max_new_tokens": 64, "scored": True},
            "code": {"prompts": "code", "budget": "b8s8", "max_new_tokens": 64},
            "b4": {"prompts": "gsm", "budget": "b4s4", "max_new_tokens": 32, "sampling": {"temperature": 1.0}},
        },
        students=students | {"sft": student | sft | {"prompts": "gsm"}, "released": student | released},
        benchmarks={
            "greedy": benchmark,
            "warm": benchmark | {"sampling": warm},
            "functions": {"label": "B", "prompts": "functions", "task": "code_function", "sandbox": "process"},
            "symbols": benchmark | {"task": "math_boxed"},
        },
    )


MADE = {
    "prompts": ("gsm", "code", "test", "humaneval"),
    "trajectories": ("gsm/0-of-1", "code/0-of-1", "b4/0-of-1"),
    "answers": ("pocket/greedy/b8s2", "pocket/greedy/b8t0.9", "pocket/greedy/b4s1", "pocket/warm/b8s4"),
    "students": tuple(f"{name}-seed0" for name in (*OBJECTIVES, "sft", "released")),
    "factorisation": ("pocket/gsm",),
}
"""What each stage makes of the twin; the other stages have methods below."""


class Stages:
    """What each stage makes below a folder, each artefact once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.twin = folder, twin()

    def made(self, stage: str) -> dict[str, Any]:
        """Item -> what a stage makes of it: a sha256, or numbers."""
        own = getattr(self, stage, None)
        if own is not None:
            return own()
        found = {}
        for name in MADE[stage]:
            manifest = store.read(made(self.twin, self.folder, f"{stage}/{name}"))
            found |= {f"{name} {item}": value for item, value in READ[stage](manifest).items()}
        return found

    @property
    def converted(self) -> tuple[Experiment, Path]:
        """An autoregressive model, its answers, and the diffusion LM made of it."""
        folder = self.folder / "converted"
        if not folder.is_dir():
            folder.mkdir()
            write_causal(folder / "published")
        file = folder / "converted.yaml"
        experiment_file(folder, folder / "published")
        content = yaml.safe_load(file.read_text())
        content["teachers"]["sdar"]["conversion"] |= {"steps": 4, "probes": 1}
        file.write_text(yaml.safe_dump(content))
        return load(file), folder

    def sources(self) -> dict[str, Any]:
        experiment, folder = self.converted
        return _files(store.read(made(experiment, folder, "sources/rows")))

    def generations(self) -> dict[str, Any]:
        experiment, folder = self.converted
        return _decoded(store.read(made(experiment, folder, "generations/own/0-of-2")))

    def verdicts(self) -> dict[str, Any]:
        """Verdicts on texts that are given, as for scores; each prompt is answered three times, and once cut."""
        folder = self.folder / "judged"
        folder.mkdir()
        content = content_of(folder, write_causal(folder / "published"))
        content["generations"]["own"]["task"] = "math_boxed"
        experiment = experiment_of(folder, content)
        spellings = ("It is \\boxed{{{}}}.", "It is {}.", "\\boxed{{1{}}}")
        answered(
            experiment,
            folder,
            "own/0-of-2",
            lambda prompt: [*(spelling.format(prompt.answer) for spelling in spellings), ["It is"]],
        )
        found = store.read(made(experiment, folder, "verdicts/own/0-of-2"))
        rows = pq.read_table(found.file(".parquet")).to_pylist()
        return {row["id"]: _sha(json.dumps(row)) for row in rows} | {"right": found.facts["right"]}

    def teachers(self) -> dict[str, Any]:
        experiment, folder = self.converted
        converted = store.read(made(experiment, folder, "teachers/sdar"))
        pretrained = store.read(made(self.twin, self.folder, "teachers/tiny"))
        training = store.read_receipt(pretrained)["training"]
        tokenizer = {k: v for k, v in _files(pretrained).items() if k == "tiny/tokenizer.json"}
        shipped = _files(store.read(made(self.twin, self.folder, "teachers/pocket")))
        return shipped | tokenizer | _log(converted) | {"tiny": [training["loss"], training["rows"]]}

    def scores(self) -> dict[str, Any]:
        """Verdicts on texts that are given, right and wrong ones in several spellings."""
        found = {}
        for benchmark in ("greedy", "symbols", "functions"):
            questions = made(self.twin, self.folder, f"prompts/{self.twin.benchmarks[benchmark].prompts}")
            model, texts = (
                made(self.twin, self.folder, "teachers/pocket"),
                _texts(benchmark, read_prompts(store.read(questions))),
            )
            counts = {"response_tokens": 8, "denoising_steps": 4, "commit_passes": 1, "finish_reason": "stop"}
            rows = [{"id": key, "text": text, **counts} for key, text in texts.items()]
            at = [self.folder / kind / f"{benchmark}{store.MANIFEST}" for kind in ("texts", "verdicts")]
            inputs = [store.read(model), store.read(questions)]
            with writer.writing(self.twin, f"answers/pocket/{benchmark}/b8s2", at[0], inputs=inputs) as job:
                pq.write_table(pa.Table.from_pylist(rows), job.file(".parquet"))
                job.receipt["decoding"] = {}
            scores.make(self.twin, at[0], questions, at[1])
            verdicts = pq.read_table(store.read(at[1]).file(".parquet")).to_pylist()
            found |= {f"{benchmark} {row['id']}": _sha(json.dumps(row)) for row in verdicts}
            found[benchmark] = _sha(store.read(at[1]).file(".json").read_text())
        return found


def _texts(benchmark: str, prompts) -> dict[str, str]:
    if benchmark == "functions":
        spellings = ["{}", "```python\n{}\n```", "Here it is:\n\n{}\n\nIt works.", "def f(x):\n    return None\n"]
        gold = [prompt.reference for prompt in prompts]
    else:
        spellings = [
            "\\boxed{{{}}}",
            "It is {}.",
            "\\boxed{{{}.0}}",
            "\\boxed{{1}} or \\boxed{{ {} }}",
            "\\boxed{{-{}}}",
        ]
        spellings += ["\\boxed{{\\frac{{{}}}{{1}}}}", "\\boxed{{{}", "The answer is \\boxed{{\\text{{{}}}}}."]
        gold = [prompt.answer for prompt in prompts]
    filled = [spelling.format(answer) for spelling, answer in zip(spellings, gold, strict=True)]
    return dict(zip((prompt.id for prompt in prompts), filled, strict=True))


def _sha(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def _files(manifest: store.Manifest) -> dict[str, Any]:
    return {name: entry["sha256"][:16] for name, entry in manifest.files.items()}


def _decoded(manifest: store.Manifest) -> dict[str, Any]:
    """Ids and step map of each row."""
    rows = pq.read_table(manifest.file(".parquet")).to_pylist()
    keys = [row.get("id", row.get("prompt_id")) + f" {row.get('sample', '')}".rstrip() for row in rows]
    return {
        key: _sha(json.dumps([row["response_ids"], row.get("step_map")])) for key, row in zip(keys, rows, strict=True)
    }


def _log(manifest: store.Manifest) -> dict[str, Any]:
    lines = (manifest.folder() / "training.jsonl").read_text().splitlines()
    return {f"step {e['step']}": [e["loss"], e["gradient_norm"]] for e in map(json.loads, lines)}


def _prompts(manifest: store.Manifest) -> dict[str, Any]:
    return {json.loads(line)["id"]: _sha(line) for line in manifest.file(".jsonl").read_text().splitlines()}


def _gaps(manifest: store.Manifest) -> dict[str, Any]:
    rows = pq.read_table(manifest.file(".parquet")).to_pylist()
    return {f"{row['id']} {row['interval']}": [row["gap"], row["terms"]] for row in rows}


READ = {"prompts": _prompts, "trajectories": _decoded, "answers": _decoded, "students": _log, "factorisation": _gaps}


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        small_corpus(patch)
        yield Stages(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("stage", KINDS)
def test_a_stage_makes_what_it_made_before(stages, stage):
    golden = json.loads(GOLDEN.read_text())[stage]
    found = stages.made(stage)
    changed = [item for item, value in golden.items() if item not in found or found[item] != _near(value)]
    assert not changed, (
        f"Results of stage {stage} changed: {', '.join(changed[:5])}{' ...' if len(changed) > 5 else ''}. If that is "
        f"meant, raise `{stage}` in workflow/recipes.yaml and run `python -m tests.golden.test_golden`."
    )


def _near(value: Any) -> Any:
    return value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-6)


def _moved(loader, seed: int, *arguments: Any) -> Any:
    """A model as it is loaded, its weights moved by 1e-4 of their size."""
    model, generator = loader(*arguments), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-4 * torch.randn(parameter.shape, generator=generator))
    return model


def write() -> None:
    """Write `golden.json`: of what is decoded, the items that models with moved weights decode alike."""
    torch.set_num_threads(1)
    found: list[dict[str, dict[str, Any]]] = []
    for seed in range(4):
        with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            small_corpus(patch)
            for module in (rollout, answers, autoregressive) if seed else ():
                patch.setattr(module, "load_model", partial(_moved, module.load_model, seed))
            stages = Stages(Path(folder))
            found.append({stage: stages.made(stage) for stage in (DECODED if seed else KINDS)})
    golden, *moved = found
    for stage in DECODED:
        whole = golden[stage]
        golden[stage] = {k: v for k, v in whole.items() if all(other[stage][k] == v for other in moved)}
        print(f"{stage}: {len(golden[stage])} of {len(whole)} items have a margin")
    rounded = json.loads(json.dumps(golden), parse_float=lambda text: float(f"{float(text):.7g}"))
    GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    write()
