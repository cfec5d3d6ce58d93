"""Recorded answers for the trajectory viewer: some questions of each benchmark, every model, every budget of a table.

A token takes four bytes: its number in the page's list of token texts (two), the step of its block that committed it,
and its confidence in 1/255.
"""

from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from t3d.errors import CorruptArtefactError, MissingInputError
from t3d.params import Budget, Comparison, Experiment
from t3d.prompts.reader import Prompt, read_prompts
from t3d.provenance import lineage, store
from t3d.provenance.lineage import ScoreKey
from t3d.provenance.parquet import ANSWERS, VERDICTS, of_artefact
from t3d.provenance.store import Manifest, manifest_path
from t3d.reporting.scores import by_cell
from t3d.reporting.view import is_ours
from t3d.seeds import seed_for

QUESTIONS = 12
"""Questions of a benchmark: some 360 answers in the demo's page, a quarter of a megabyte."""
_MOST = 255
_COLUMNS = ["id", "response_ids", "step_map", "confidence", "response_tokens", "finish_reason"]


def of_table(experiment: Experiment, table: Comparison) -> dict[str, Any]:
    """What the viewer shows.

    A student is shown by the run of its first seed. The questions are drawn by the experiment's seed.

    Returns:
        `tokens` (texts), `special` (numbers of special tokens in it), `models` (labels of rows), `chosen` (the one
        beside the teacher), `budgets`,
        `benchmarks` (label, `questions` with id, text and expected answer), `note` (how to get verdicts that are not
        here, or empty) and `answers`: row/benchmark/budget -> one entry per question (packed tokens, tokens up to the
        end of text, why it ended, and, if the score is here, the verdict and what was extracted).

    Raises:
        MissingInputError: no answer, or not the teacher's tokenizer, is here.
        ParameterError, CorruptArtefactError: an answer does not fit the experiment or its manifest.
    """
    seeds = table.seeds
    rows = [
        (row.label, {c: next(iter(lineage.runs_of(experiment, row.models[c], seeds))) for c in table.benchmarks}, row)
        for row in lineage.rows_of(experiment, table)
    ]
    wanted: list[ScoreKey] = [
        (runs[column], row.benchmarks[column], budget)
        for _, runs, row in rows
        for column in table.benchmarks
        for budget in table.budgets
    ]
    here = [cell for cell in dict.fromkeys(wanted) if _path(experiment, "answers", cell).is_file()]
    if not here:
        raise MissingInputError(f"no recorded answers of experiment {experiment.name} are here.")
    answers = by_cell(experiment, here, [_path(experiment, "answers", cell) for cell in here], kind="answers")
    for manifest in answers.values():
        # Before the tokenizer, which may be missing too: that the answers are not here says more.
        manifest.check(contents=False)
    tokens = _Tokens(_tokenizer(experiment, table.teacher))
    unscored = [path for cell in answers if store.find(path := _path(experiment, "scores", cell)) is None]
    found: dict[str, list[dict[str, Any] | None]] = {}
    benchmarks = {}
    for column in table.benchmarks:
        questions = _questions(experiment, column)
        benchmarks[column] = {
            "label": experiment.benchmarks[column].label,
            "questions": [{"id": q.id, "text": q.text, "expected": q.expected} for q in questions],
        }
        for number, (_, runs, row) in enumerate(rows):
            for budget in table.budgets:
                cell = (runs[column], row.benchmarks[column], budget)
                if cell in answers:
                    ids = [question.id for question in questions]
                    found[f"{number}/{column}/{budget}"] = _entries(experiment, cell, answers[cell], ids, tokens)
    return {
        "tokens": tokens.texts,
        "special": tokens.special,
        "models": [label for label, _, _ in rows],
        "chosen": max(range(len(rows)), key=lambda number: (is_ours(rows[number][0]), number)),
        "budgets": [{"name": b, "block": Budget.parse(b).block_size} for b in table.budgets],
        "benchmarks": benchmarks,
        "note": store.pulling_verdicts(experiment.name, unscored),
        "answers": found,
    }


class _Tokens:
    """Texts of the tokens that occur, in order of appearance."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._numbers: dict[int, int] = {}
        self.texts: list[str] = []
        self.special: list[int] = []

    def number(self, token: int) -> int:
        if token not in self._numbers:
            self._numbers[token] = len(self.texts)
            if token in self._tokenizer.all_special_ids or token in self._tokenizer.added_tokens_decoder:
                self.special.append(len(self.texts))
            self.texts.append(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return self._numbers[token]


def _path(experiment: Experiment, kind: str, cell: ScoreKey) -> Path:
    return manifest_path(experiment, "/".join((kind, *cell)))


def _tokenizer(experiment: Experiment, teacher: str) -> Any:
    # It takes seconds to load, and pages without answers need none.
    from t3d.models.folder import load_tokenizer

    manifest = store.read(manifest_path(experiment, f"teachers/{teacher}"), kind="teachers")
    manifest.check(contents=False)
    return load_tokenizer(manifest.base)


def _questions(experiment: Experiment, column: str) -> list[Prompt]:
    prompts = read_prompts(store.read(manifest_path(experiment, f"prompts/{experiment.benchmarks[column].prompts}")))
    drawn = sorted(prompts, key=lambda prompt: seed_for(experiment.seed, "report", column, prompt.id))[:QUESTIONS]
    chosen = {prompt.id for prompt in drawn}
    return [prompt for prompt in prompts if prompt.id in chosen]


def _entries(
    experiment: Experiment, cell: ScoreKey, manifest: Manifest, ids: list[str], tokens: _Tokens
) -> list[dict[str, Any] | None]:
    """One entry per question; None for a question that was not answered."""
    answers = of_artefact(manifest, ANSWERS, _COLUMNS).to_pandas().set_index("id")
    verdicts = _verdicts(experiment, cell)
    return [
        _entry(answers.loc[key], verdicts.get(key, {}), manifest, tokens) if key in answers.index else None
        for key in ids
    ]


def _verdicts(experiment: Experiment, cell: ScoreKey) -> dict[str, dict[str, Any]]:
    """By question; none if the score is not here, as where answers were fetched and scores were not."""
    if (score := store.find(_path(experiment, "scores", cell))) is None:
        return {}
    table = of_artefact(score, VERDICTS, ["id", "correct", "extracted"]).to_pandas()
    return {
        row.id: {"right": bool(row.correct), "extracted": None if pd.isna(row.extracted) else str(row.extracted)}
        for row in table.itertuples()
    }


def _entry(answer: Any, verdict: dict[str, Any], manifest: Manifest, tokens: _Tokens) -> dict[str, Any]:
    steps = np.asarray(answer["step_map"], dtype=int)
    sure = np.asarray(answer["confidence"], dtype=float)
    numbers = [tokens.number(int(token)) for token in answer["response_ids"]]
    if not (len(steps) == len(sure) == len(numbers)) or (len(steps) and not 1 <= steps.min() <= steps.max() <= _MOST):
        raise CorruptArtefactError(
            f"{manifest.path}: answer {answer.name}: {len(numbers)} tokens, {len(steps)} steps and {len(sure)} "
            "confidences do not fit. Delete it and run its stage again."
        )
    packed = np.zeros(len(numbers), dtype=[("token", "<u2"), ("step", "u1"), ("sure", "u1")])
    packed["token"], packed["step"] = numbers, steps
    packed["sure"] = np.rint(np.clip(sure, 0, 1) * _MOST).astype(int)
    return {
        "packed": b64encode(packed.tobytes()).decode(),
        "length": int(answer["response_tokens"]),
        "finish": str(answer["finish_reason"]),
        **verdict,
    }
