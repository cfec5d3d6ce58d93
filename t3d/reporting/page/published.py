"""Published texts of answers for the page, where the answers themselves are not here: some questions of each benchmark.

The texts of 40 questions are 0.6 to 0.8 MB. They are compressed, and the browser unpacks them (`report.texts.js`).
"""

import json
import zlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.errors import MissingInputError
from t3d.params import AUTOREGRESSIVE, Budget, Comparison, Experiment
from t3d.prompts import asked
from t3d.provenance import lineage, store, texts
from t3d.provenance.parquet import verdicts_of

QUESTIONS = 10
"""Of a benchmark, at most: 73 kB in the page of `qwen-right`, 94 kB in that of `qwen-block8`."""


@dataclass(frozen=True)
class _Row:
    label: str
    runs: dict[str, tuple[str, str]]
    """Column -> the model on disk and the benchmark that it answered."""


def of_table(experiment: Experiment, table: Comparison) -> dict[str, Any]:
    """The texts of a table's rows, at every number of tokens per step that was published.

    A student is shown by the run of its first seed. Of a column those questions are shown, the first ones, that the
    teacher answers right at its most steps and wrong at its fewest; where none is known to be such, the first of all.

    Returns:
        `rows` (labels), `budgets` (names, most steps first), `columns` (of each `label`, `chosen`: which questions are
        shown, and `why` their text is not, or an empty text), `note` (how to get verdicts that are not here, or
        empty), and `packed`: JSON, compressed by zlib, in base64. It has of each question `column` (a number), `id`,
        `text` and `expected`, which may be null, and `answers`: numbers of row and budget, `1/0`, -> the text, and the
        verdict or null.

    Raises:
        MissingInputError: there is no archive of texts, or it has none of the table's answers.
        CorruptArtefactError: the archive, a score or a benchmark's file is damaged.
    """
    found = texts.read(experiment)
    rows = _rows(experiment, table)
    budgets = _budgets(table, found, rows)
    if not budgets:
        raise MissingInputError(f"{texts.path_of(experiment)} has no text of an answer of the table's rows.")
    names = list(dict.fromkeys(budgets.values()))
    columns: list[dict[str, str]] = []
    questions: list[dict[str, Any]] = []
    unscored: list[Path] = []
    for column in table.benchmarks:
        ids, chosen = _choose(experiment, table, column, found.get(column, {}), budgets)
        prompts, why = asked.find_or_why(experiment, experiment.benchmarks[column].prompts)
        answers: dict[str, dict[str, Any]] = {key: {} for key in ids}
        for number, row in enumerate(rows):
            run, benchmark = row.runs.get(column, ("", ""))
            for budget, name in budgets.items():
                texts_of = {key: found.get(benchmark, {}).get(key, {}).get(f"{run}/{budget}") for key in ids}
                if any(text is not None for text in texts_of.values()):
                    verdicts = _verdicts(experiment, run, benchmark, budget)
                    if not verdicts:
                        unscored.append(_score(experiment, run, benchmark, budget))
                    for key, text in texts_of.items():
                        if text is not None:
                            answers[key][f"{number}/{names.index(name)}"] = [text, verdicts.get(key)]
        columns.append({"label": experiment.benchmarks[column].label, "chosen": chosen, "why": why})
        for key in ids:
            asks = prompts.get(key)
            said = {"text": asks and asks.text, "expected": asks and asks.expected, "answers": answers[key]}
            questions.append({"column": len(columns) - 1, "id": key, **said})
    content = json.dumps(questions, ensure_ascii=False, separators=(",", ":")).encode()
    packed = b64encode(zlib.compress(content, 9)).decode()
    note = store.pulling_verdicts(experiment.name, unscored)
    labels = [row.label for row in rows]
    return {"rows": labels, "budgets": names, "columns": columns, "note": note, "packed": packed}


def _rows(experiment: Experiment, table: Comparison) -> list[_Row]:
    """The rows of a table as it shows them: an autoregressive one stands first."""
    rows = []
    if served := lineage.autoregressive_cells(experiment, table):
        rows.append(_Row(served[0].label, {place.column: place.cell[:2] for place in served}))
    for row in lineage.rows_of(experiment, table):
        runs = {c: next(iter(lineage.runs_of(experiment, row.models[c], table.seeds))) for c in table.benchmarks}
        rows.append(_Row(row.label, {column: (run, row.benchmarks[column]) for column, run in runs.items()}))
    return rows


def _budgets(table: Comparison, found: texts.Texts, rows: list[_Row]) -> dict[str, str]:
    """Budgets with a number of steps that rows have texts at, in the table's blocks -> names, most steps first."""
    sizes = {Budget.parse(budget).block_size for budget in table.budgets}
    runs = {pair for row in rows for pair in row.runs.values()}
    keys = {(key, name) for name, questions in found.items() for answers in questions.values() for key in answers}
    there = {
        Budget.parse(budget) for key, name in keys for run, _, budget in [key.partition("/")] if (run, name) in runs
    }
    fits = [b for b in there if b.tokens_per_step and (b.block_size in sizes or str(b) == AUTOREGRESSIVE)]
    named = {}
    for budget in sorted(fits, key=lambda b: (b.tokens_per_step or 0, b.block_size)):
        tokens = budget.tokens_per_step or 0
        name = f"{tokens:g} token{'s' * (tokens != 1)} per step"
        in_blocks = len(sizes) > 1 and budget.block_size in sizes
        named[str(budget)] = f"{name}, blocks of {budget.block_size}" if in_blocks else name
    return named


def _choose(
    experiment: Experiment,
    table: Comparison,
    column: str,
    answered: dict[str, dict[str, str]],
    budgets: dict[str, str],
) -> tuple[list[str], str]:
    """Ids of the questions that are shown, and in words which these are."""
    asked_at = {key for answers in answered.values() for key in answers}
    own = [budget for budget in budgets if f"{table.teacher}/{budget}" in asked_at]
    if len(own) > 1:
        most, fewest = (_verdicts(experiment, table.teacher, column, budget) for budget in (own[0], own[-1]))
        lost = [key for key in answered if most.get(key) is True and fewest.get(key) is False]
        if lost:
            label = experiment.teachers[table.teacher].label
            said = f"that {label} answers right at {budgets[own[0]]} and wrong at {budgets[own[-1]]}"
            shown = lost[:QUESTIONS]
            # Whoever reads these alone would think that students are better than they are.
            return shown, f"the first {len(shown)} of {len(lost)} questions {said}: what few steps do, not how often"
    first = list(answered)[:QUESTIONS]
    return first, f"the first {len(first)} of {len(answered)} questions"


def _verdicts(experiment: Experiment, run: str, benchmark: str, budget: str) -> dict[str, bool]:
    """The verdict on each answer, if the score is here."""
    score = store.find(_score(experiment, run, benchmark, budget))
    return {} if score is None else verdicts_of(score)


def _score(experiment: Experiment, run: str, benchmark: str, budget: str) -> Path:
    return store.manifest_path(experiment, f"scores/{run}/{benchmark}/{budget}")
