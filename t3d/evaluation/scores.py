"""The stage that scores recorded answers; no model is needed.

Final answers are extracted and compared by lm-eval (`harness.py`), programs run against hidden tests (`sandbox.py`).
"""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from t3d.errors import DataError
from t3d.evaluation.extraction import program_in
from t3d.evaluation.programs import PROGRAMS, UNTESTED, answer_of
from t3d.params import Experiment
from t3d.progress import Progress
from t3d.prompts.reader import Prompt, read_prompts
from t3d.provenance import store, writer
from t3d.provenance.parquet import ANSWERS, VERDICTS, of_artefact
from t3d.sandbox.sandbox import Sandbox

COUNTS = ("response_tokens", "denoising_steps", "commit_passes")
"""Columns of answers whose sums a score holds."""


def make(experiment: Experiment, answers: Path, prompts: Path, out: Path) -> None:
    """Score the answers of one (model, benchmark, budget).

    Args:
        experiment: whose benchmark names the task.
        answers: manifest of the answers.
        prompts: manifest of the prompt set that was answered.
        out: manifest to write; `<budget>.json` (totals) and `<budget>.parquet` (per question) lie beside it.
    """
    _, model, benchmark, budget = store.read(answers, kind="answers").artefact.split("/")
    artefact = f"scores/{model}/{benchmark}/{budget}"
    source, questions = inputs = store.read_inputs(experiment, artefact, [answers, prompts])
    columns = ["id", "text", *COUNTS, "finish_reason"]
    recorded = {row["id"]: row for row in of_artefact(source, ANSWERS, columns).to_pylist()}
    texts = {key: row["text"] for key, row in recorded.items()}
    asked = read_prompts(questions)
    if missing := [prompt.id for prompt in asked if prompt.id not in recorded]:
        raise DataError(f"{source.path}: no answer is recorded for {len(missing)} questions (e.g. {missing[0]}).")
    spec = experiment.benchmarks[benchmark]
    with writer.writing(experiment, artefact, out, inputs=inputs) as job:
        judged = judge(spec.task, asked, texts, f"programs {model} {benchmark} {budget}", spec.sandbox)
        if len(judged) != len(recorded):
            raise DataError(f"{source.path}: {len(recorded)} answers for {len(judged)} questions of {questions.path}.")
        counts = {key: {name: row[name] for name in COUNTS[:2]} for key, row in recorded.items()}
        rows = [{"id": key, **found, **counts[key]} for key, found in judged.items()]
        pq.write_table(pa.Table.from_pylist(rows, schema=VERDICTS), job.file(".parquet"), compression="zstd")
        totals = {"model": model, "benchmark": benchmark, "budget": budget, **_totals(rows, list(recorded.values()))}
        job.file(".json").write_text(json.dumps(totals, indent=1) + "\n")
        job.receipt["decoding"] = store.decoding_of(source)


def judge(
    task: str, prompts: list[Prompt], texts: dict[str, str], title: str, sandbox: str = "bubblewrap"
) -> dict[str, dict]:
    """Judge texts by a task of `t3d/evaluation/tasks/`.

    Args:
        task: its name.
        prompts: the questions, of one domain.
        texts: an answer to each, by question id.
        title: of the progress line, where programs are run.
        sandbox: where these are run.

    Returns:
        By question id: `extracted`, `correct` and `reason`.
    """
    if prompts and prompts[0].domain in PROGRAMS:
        return _run_programs(sandbox, prompts, texts, title)
    return _compare_answers(task, prompts, texts)


def _compare_answers(task: str, prompts: list[Prompt], texts: dict[str, str]) -> dict[str, dict]:
    """By question id, what lm-eval extracted from each text and whether it is right."""
    # Imported here: programs are judged without lm-eval, which takes a second to load.
    from t3d.evaluation import harness

    samples = harness.evaluate(texts, task, prompts)
    return {
        sample["doc"]["id"]: {
            "extracted": sample["filtered_resps"][0] or None,
            # A score counts only when it is exactly 1.
            "correct": bool(sample["exact_match"] == 1.0),
            "reason": sample.get("reason"),
        }
        for sample in samples
    }


def _run_programs(sandbox: str, prompts: list[Prompt], texts: dict[str, str], title: str) -> dict[str, dict]:
    """By question id, the program in each text and what its tests said."""
    progress = Progress(title, len(prompts))
    answers = [answer_of(prompt) for prompt in prompts]
    programs = [
        program_in(texts[prompt.id], json.loads(answer)["entry_point"]) if answer else ""
        for prompt, answer in zip(prompts, answers, strict=True)
    ]

    def judged(prompt: Prompt, answer: str, program: str) -> dict:
        if not answer:
            return {"extracted": None, "correct": False, "reason": UNTESTED}
        test = PROGRAMS[prompt.domain](answer, program)
        verdict = box.judge(test.source, test.entry_point, test.check, test.limits)
        return {"extracted": program or None, "correct": verdict.passed, "reason": verdict.reason}

    results = {}
    # A thread waits for its program; the programs are processes of their own.
    with Sandbox(sandbox) as box, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for prompt, found in zip(prompts, pool.map(judged, prompts, answers, programs), strict=True):
            results[prompt.id] = found
            progress.advance(1)
    return results


def _totals(rows: list[dict], recorded: list[dict]) -> dict:
    correct = sum(row["correct"] for row in rows)
    tokens, steps, commits = (sum(row[key] for row in recorded) for key in COUNTS)
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
