"""The stage that answers a benchmark at one budget: decode, and keep ids, step maps and confidences."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from t3d import receipts
from t3d.errors import ParameterError
from t3d.evaluation import harness
from t3d.models.device import pick_device
from t3d.models.sdar import load_model, load_tokenizer, stop_ids
from t3d.params import Budget, Experiment, PromptSet
from t3d.progress import Progress
from t3d.prompts import sets
from t3d.seeds import seed_for

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("response_ids", pa.list_(pa.int32())),
        ("step_map", pa.list_(pa.int16())),
        ("confidence", pa.list_(pa.float32())),
        ("response_tokens", pa.int32()),
        ("denoising_steps", pa.int32()),
        ("commit_passes", pa.int32()),
        ("finish_reason", pa.string()),
    ]
)


def make(experiment: Experiment, benchmark: str, budget: str, model: Path, prompts: Path, out: Path) -> None:
    """Answer `benchmark` with a model at a budget.

    Args:
        experiment: whose benchmarks have `benchmark`.
        benchmark: its key.
        budget: `b8s2` or `b8t0.9`.
        model: manifest of a teacher or a student.
        prompts: manifest of the benchmark's prompt set.
        out: manifest to write; `<budget>.parquet` lies beside it.
    """
    if benchmark not in experiment.benchmarks:
        raise ParameterError(f"experiment {experiment.name} has no benchmark {benchmark!r}.")
    spec = experiment.benchmarks[benchmark]
    device = pick_device(experiment)
    source, questions = receipts.read(model), receipts.read(prompts, kind="prompts")
    name = source.artefact.partition("/")[2]
    folder = source.folder()
    progress = Progress(f"answers {name} {benchmark} {budget}", questions.facts["prompts"])
    artefact = f"answers/{name}/{benchmark}/{budget}"
    tokenizer = load_tokenizer(folder)
    _check_prompts(experiment.prompt_sets[spec.prompts], sets.read(questions), tokenizer, name)
    with receipts.making(experiment, artefact, out, inputs=[source, questions], device=device) as job:
        lm = harness.BlockDiffusionLM(
            load_model(folder, device, experiment.dtype_of(name)),
            tokenizer,
            Budget.parse(budget),
            stop_ids=stop_ids(folder),
            max_new_tokens=spec.max_new_tokens,
            sampling=spec.sampling,
            batch_size=spec.batch_size,
            seed_of=lambda item: seed_for(experiment.seed, "answer", item),
            on_finished=progress.advance,
        )
        samples = harness.evaluate(lm, spec.task, questions.file(".jsonl"), score=False)
        rows = [_row(sample, lm.responses[sample["doc"]["id"]]) for sample in samples]
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), job.file(".parquet"), compression="zstd")
        job.facts["questions"] = len(rows)
        tokens = sum(row["response_tokens"] for row in rows)
        job.receipt["decoding"] = {
            "tokens_per_second": tokens / lm.seconds,
            "batch_size": spec.batch_size,
            "device": receipts.device_name(device),
        }


def _check_prompts(spec: PromptSet, prompts: Sequence[sets.Prompt], tokenizer, model: str) -> None:
    """Check that a model's own tokenizer and chat template would ask the same ids: they may be another teacher's."""
    for prompt in prompts[:1]:
        if sets.encode_prompt(tokenizer, prompt.text + spec.suffix) != prompt.prompt_ids:
            raise ParameterError(
                f"{model} has another tokenizer or chat template than teacher {spec.teacher}, whose ids ask the "
                "questions of this benchmark. Declare a prompt set of its own teacher."
            )


def _row(sample, response) -> dict:
    return {
        "id": sample["doc"]["id"],
        "text": sample["resps"][0][0],
        "response_ids": response.ids,
        "step_map": response.step_map,
        "confidence": response.confidence,
        "response_tokens": response.length,
        "denoising_steps": response.denoising_steps,
        "commit_passes": response.commit_passes,
        "finish_reason": response.finish_reason,
    }
