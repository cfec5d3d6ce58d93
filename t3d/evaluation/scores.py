"""The stage that scores recorded answers: lm-eval extracts and counts, no model is needed."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from t3d import receipts
from t3d.errors import DataError
from t3d.evaluation import harness
from t3d.params import Experiment

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("extracted", pa.string()),
        ("correct", pa.bool_()),
        ("response_tokens", pa.int32()),
        ("denoising_steps", pa.int32()),
    ]
)


def make(experiment: Experiment, answers: Path, prompts: Path, out: Path) -> None:
    """Score the answers of one (model, benchmark, budget).

    Args:
        experiment: whose benchmark names the task.
        answers: manifest of the answers.
        prompts: manifest of the prompt set that was answered.
        out: manifest to write; `<budget>.json` (totals) and `<budget>.parquet` (per question) lie beside it.
    """
    source, questions = receipts.read(answers, kind="answers"), receipts.read(prompts, kind="prompts")
    _, model, benchmark, budget = source.artefact.split("/")
    recorded = {row["id"]: row for row in pq.read_table(source.file(".parquet")).to_pylist()}
    lm = harness.RecordedAnswers({key: row["text"] for key, row in recorded.items()})
    task = experiment.benchmarks[benchmark].task
    samples = harness.evaluate(lm, task, questions.file(".jsonl"), score=True)
    if len(samples) != len(recorded):
        raise DataError(f"{source.path}: {len(recorded)} answers for {len(samples)} questions of {questions.path}.")
    rows = [_row(sample, recorded[sample["doc"]["id"]]) for sample in samples]
    artefact = f"scores/{model}/{benchmark}/{budget}"
    with receipts.making(experiment, artefact, out, inputs=[source, questions]) as job:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), job.file(".parquet"), compression="zstd")
        totals = {"model": model, "benchmark": benchmark, "budget": budget, **_totals(rows, list(recorded.values()))}
        job.file(".json").write_text(json.dumps(totals, indent=1) + "\n")


def _row(sample, recorded) -> dict:
    extracted = sample["filtered_resps"][0]
    return {
        "id": recorded["id"],
        "extracted": extracted or None,
        # A score counts only when it is exactly 1.
        "correct": bool(sample["exact_match"] == 1.0),
        "response_tokens": recorded["response_tokens"],
        "denoising_steps": recorded["denoising_steps"],
    }


def _totals(rows: list[dict], recorded: list[dict]) -> dict:
    correct = sum(row["correct"] for row in rows)
    tokens, steps, commits = (
        sum(row[key] for row in recorded) for key in ("response_tokens", "denoising_steps", "commit_passes")
    )
    return {
        "n": len(rows),
        "correct": correct,
        "accuracy": correct / len(rows),
        "response_tokens": tokens,
        "denoising_steps": steps,
        "commit_passes": commits,
        "tokens_per_step": tokens / steps,
        "tokens_per_forward": tokens / (steps + commits),
        "finish_reasons": dict(sorted(Counter(row["finish_reason"] for row in recorded).items())),
    }
