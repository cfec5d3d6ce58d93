"""`t3d card` and `t3d push`: a model as the Hugging Face hub expects it, written from manifests, receipts and scores.

What goes to the hub is the model's folder, a model card (`README.md`) and `.eval_results/*.yaml`. Every number on the
card is a score that fits the experiment's parameters.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, HfApi, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from t3d.errors import ParameterError, SourceError, reading
from t3d.params import Budget, Experiment
from t3d.provenance import advice, lineage, recipes, store, verify
from t3d.provenance.store import manifest_path
from t3d.provenance.totals import totals_of
from t3d.reporting.statistics import accuracy_of

_USE = """\
import t3d.models  # tells transformers what `sdar` is
from transformers import AutoModelForCausalLM, AutoTokenizer
from t3d.decoding.decoder import generate

model = AutoModelForCausalLM.from_pretrained("{repository}").eval()
tokenizer = AutoTokenizer.from_pretrained("{repository}")
chat = [{{"role": "user", "content": "What is 12 plus 3?"}}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
written = generate(model, tokenizer, ids, "b4s2")
print(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
"""


@dataclass(frozen=True)
class Score:
    """A model's accuracy on a benchmark at a budget, in percent, with its 95 % Wilson interval."""

    benchmark: str
    label: str
    budget: str
    n: int
    accuracy: float
    low: float
    high: float
    finished: str

    def note(self) -> str:
        """How it was decoded and how sure it is."""
        budget = Budget.parse(self.budget)
        how = f"threshold {budget.threshold}" if budget.steps is None else f"{budget.tokens_per_step:g} tokens per step"
        return f"block {budget.block_size}, {how}; n {self.n}, 95 % interval {self.low:.1f} to {self.high:.1f}"


def artefact_of(experiment: Experiment, model: str) -> str:
    """The artefact of a teacher, of a student (its first seed) or of one run of it.

    Raises:
        ParameterError: the experiment has no such model.
    """
    if model in experiment.students:
        model = f"{model}-seed{experiment.students[model].seeds[0]}"
    if model not in experiment.teachers and model not in lineage.runs(experiment):
        known = ", ".join([*experiment.teachers, *experiment.students])
        raise ParameterError(f"experiment {experiment.name} has no model {model!r}: {known}.")
    return lineage.model(experiment, model)


def read_score(experiment: Experiment, path: Path) -> Score:
    """Read a score from its manifest.

    Raises:
        T3DError: it does not fit the parameters or its files.
    """
    manifest = store.read(path)
    verify.check(experiment, manifest, files="contents")
    key = manifest.artefact.split("/")[2]
    totals = totals_of(manifest)
    return Score(
        key,
        experiment.benchmarks[key].label,
        totals.budget,
        totals.n,
        **accuracy_of(totals.correct, totals.n, totals.n),
        finished=str(store.read_receipt(manifest).get("finished")),
    )


def line(experiment: Experiment, path: Path) -> str:
    """What `t3d evaluate` says of a score: accuracy, how it was decoded, and where its receipt is; as `read_score`."""
    score, manifest = read_score(experiment, path), store.read(path)
    dtype = lineage.dtype_of(experiment, manifest.artefact.split("/")[1])
    device = store.decoding_of(manifest).get("device")
    receipt = f"{manifest.base}{store.RECEIPT}"
    return f"{score.label}: {score.accuracy:.1f} % in {dtype} on {device} ({score.note()}); {receipt}"


def spread(experiment: Experiment, rows: Iterable[tuple[str, int, Path, int]]) -> str:
    """What `t3d.evaluation.checkpoint.invariance` found, as a table; under it, how far accuracy moved."""
    lines = ["| format | batch | accuracy, % | other answers than the first row |", "| --- | ---: | ---: | ---: |"]
    found = []
    for dtype, size, path, changed in rows:
        found.append(read_score(experiment, path))
        lines.append(f"| {dtype} | {size} | {found[-1].accuracy:.1f} | {changed} of {found[-1].n} |")
    accuracies = [score.accuracy for score in found]
    moved = max(accuracies) - min(accuracies)
    return "\n".join([*lines, "", f"Spread: {moved:.1f} points. First row: {found[0].label}, {found[0].note()}."])


def scores_of(experiment: Experiment, model: str) -> list[Score]:
    """Every score of a model that is here, in the order of the experiment's benchmarks; raises as `read_score`."""
    folders = [manifest_path(experiment, f"scores/{model}/{key}/b1s1").parent for key in experiment.benchmarks]
    return [read_score(experiment, path) for folder in folders for path in sorted(folder.glob(f"*{store.MANIFEST}"))]


def text(experiment: Experiment, model: str, licence: str | None, repository: str | None) -> str:
    """The model card, Markdown with a YAML head.

    Args:
        experiment: whose model it is.
        model: its key, for a student that of the student or of one run.
        licence: an identifier of the hub, `apache-2.0`; the head has none unless given.
        repository: where it will lie, for the example.

    Raises:
        ParameterError: there is no such model.
        MissingInputError: it was not made.
        T3DError: it, or a score, does not fit.
    """
    artefact = artefact_of(experiment, model)
    manifest = store.read(manifest_path(experiment, artefact))
    verify.check(experiment, manifest, files="contents")
    name = artefact.partition("/")[2]
    origins = lineage.origins_of(experiment, [artefact])
    sources = [experiment.sources[o.partition("/")[2]] for o in origins if o.startswith("sources/")]
    base = [source.repository for source in sources if source.kind == "model"]
    head = ModelCardData(
        license=licence,
        base_model=base or None,
        datasets=[source.repository for source in sources if source.kind == "dataset"] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["diffusion", "block-diffusion", "sdar", "t3d"],
    )
    spec = experiment.students.get(name.rpartition("-seed")[0]) or experiment.teachers[name]
    receipt = store.read_receipt(manifest)
    path = Path(f"{manifest.base}{store.RECEIPT}")
    with reading(path, advice.of_receipt(path, manifest.path)):
        made = f"on {receipt['device']}, {receipt['seconds']:.0f} s"
        if speed := receipt.get("seconds_per_step"):
            made += f", {speed:.3f} s per optimizer step"
        made += f", finished {receipt['finished']}, commit `{receipt['git_commit']}`"
    scores = [
        f"| {s.label} | `{s.budget}` | {s.accuracy:.1f} [{s.low:.1f}, {s.high:.1f}] | {s.n} |"
        for s in scores_of(experiment, name)
    ]
    parts = [
        f"---\n{head}\n---\n\n# {spec.label or name}",
        "A block-diffusion language model (SDAR: Qwen layers with block-causal attention). It writes blocks of "
        "tokens, several tokens per denoising step. It was made by the workflow of "
        "[T3D](https://arxiv.org/abs/2602.12262), experiment "
        f"`{experiment.name}`, as `{artefact}`.",
        "## Use\n\n```python\n" + _USE.format(repository=repository or manifest.base) + "```\n\n"
        "`model.generate()` refuses: it would write one token after another, which this model was not trained for. "
        f'`t3d decode --teacher {repository or manifest.base} --budget b4s2 "..."` shows how an answer is written, and '
        "`t3d lm-eval` asks the tasks of lm-eval.",
        "## Accuracy\n\n"
        + (
            "In percent, with 95 % Wilson intervals. `b4s2` is a block of 4 tokens in 2 denoising steps.\n\n"
            "| benchmark | budget | accuracy | questions |\n| --- | --- | ---: | ---: |\n" + "\n".join(scores)
            if scores
            else "Not measured here."
        ),
        "## How it was made\n\n"
        + "\n".join(f"- `{o}`: recipe `{recipes.digest(experiment, o)[:12]}`" for o in origins if o != artefact)
        + f"\n- {made}\n\n```yaml\n"
        + yaml.safe_dump(recipes.artefact_params(experiment, artefact), sort_keys=False)
        + "```",
        "## Files\n\n| file | sha256 |\n| --- | --- |\n"
        + "\n".join(f"| `{Path(file).name}` | `{entry['sha256']}` |" for file, entry in manifest.files.items()),
    ]
    return "\n\n".join(parts) + "\n"


def results(experiment: Experiment, model: str) -> dict[str, str]:
    """`.eval_results/<benchmark>-<budget>.yaml` -> content, of the benchmarks whose questions lie on the hub."""
    files = {}
    for score in scores_of(experiment, artefact_of(experiment, model).partition("/")[2]):
        source = experiment.prompt_sets[experiment.benchmarks[score.benchmark].prompts].source
        if source is None:
            continue
        entry = EvalResultEntry(
            dataset_id=experiment.sources[source].repository,
            task_id="default",
            value=round(score.accuracy, 2),
            dataset_revision=experiment.sources[source].revision,
            date=score.finished,
            notes=score.note(),
        )
        content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        files[f".eval_results/{score.benchmark}-{score.budget}.yaml"] = content
    return files


def write(experiment: Experiment, model: str, out: Path, licence: str | None, repository: str) -> list[Path]:
    """Put a model's folder, its card and its results into an empty folder; return what was written.

    Raises:
        ParameterError: `out` is not empty, or `repository` is no name of a repository.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ParameterError(f"--repository is {repository!r}; it has the form owner/name.") from error
    card, found = text(experiment, model, licence, repository), results(experiment, model)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ParameterError(f"--out is {out}, which holds something; name a folder that is new or empty.")
    source = store.read(manifest_path(experiment, artefact_of(experiment, model))).folder()
    shutil.copytree(source, out, dirs_exist_ok=True)
    (out / "README.md").write_text(card)
    for name, content in found.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(content)
    return sorted(path for path in out.rglob("*") if path.is_file())


def push(folder: Path, repository: str, private: bool, **where: Any) -> str:
    """Create the repository if there is none and upload `folder` in one commit; return its address.

    Args:
        folder: of `write`.
        repository: `owner/name`.
        private: whether a new repository is.
        where: `endpoint` and `token` of the hub, for `HfApi`.

    Raises:
        SourceError: the hub cannot be reached or refuses.
    """
    try:
        api = HfApi(**where)
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by t3d push"))
    except (HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceError(
            f"{repository} was not pushed: {reason}. `hf auth login` stores a token that may write."
        ) from error
