"""Accuracy tables: a tidy CSV first, Markdown and LaTeX of the same numbers beside it.

    t3d table --experiment pocket --name table1 ... --out results/pocket/table1.csv

Where numbers come from and when they are refused: `scores.py`. How sure they are: `statistics.py`. How they look:
`renderings.py`.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from t3d.errors import MissingInputError, ParameterError
from t3d.params import AccuracyFigure, AccuracyTable, Budget, Experiment
from t3d.reporting import scores
from t3d.reporting.files import replacing
from t3d.reporting.renderings import AVERAGE, to_latex, to_markdown
from t3d.reporting.statistics import holm, paired_bootstrap, paired_test, seed_interval, wilson

COLUMNS = {
    "method": "s",
    "tokens_per_step": "g",
    "block_size": "d",
    "benchmark": "s",
    "n": "d",
    "seeds": "d",
    "accuracy": ".2f",
    "low": ".2f",
    "high": ".2f",
    "seed_low": ".2f",
    "seed_high": ".2f",
    "difference": ".2f",
    "difference_low": ".2f",
    "difference_high": ".2f",
    "p_value": ".4g",
    "p_adjusted": ".4g",
    "relative_change": ".2f",
    "reported": ".2f",
    "difference_from_reported": ".2f",
}
"""Column of a tidy table -> how the CSV writes it; a missing value is an empty field."""

REPORTED = Path("params", "reported.csv")
"""The paper's numbers, in the working directory as every experiment file."""

_PaperKey = tuple[str, float, int | None, str]


def write(experiment: Experiment, name: str, manifests: list[Path], out_csv: Path) -> None:
    """Write table `name` to `out_csv`, and its Markdown and LaTeX beside it; equal scores give equal bytes.

    Args:
        manifests: of the scores it needs, see `scores.load`.

    Raises:
        ParameterError: the experiment has no such table, or scores were made with other parameters.
        MissingInputError, CorruptArtefactError, DataError: as `scores.load`.
    """
    if name not in experiment.tables:
        known = ", ".join(experiment.tables) or "none"
        raise ParameterError(f"params/{experiment.name}.yaml has no table {name!r}. Tables there: {known}.")
    table = experiment.tables[name]
    reported = None
    if table.paper_table is not None:
        if not REPORTED.is_file():
            raise MissingInputError(f"{REPORTED} is missing, though tables.{name}.paper_table asks for its values.")
        reported = pd.read_csv(REPORTED)
    tidy = accuracy_table(experiment, table, scores.load(experiment, table, manifests), reported)
    contents = {
        ".csv": _to_csv(tidy),
        ".md": to_markdown(experiment, table, tidy),
        ".tex": to_latex(experiment, table, tidy),
    }
    for suffix, content in contents.items():
        with replacing(out_csv.with_suffix(suffix)) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")


def accuracy_table(
    experiment: Experiment, table: AccuracyTable | AccuracyFigure, frame: pd.DataFrame, reported: pd.DataFrame | None
) -> pd.DataFrame:
    """One row per tokens per step, method, block size and benchmark, then the row's average over those cells.

    Args:
        frame: per question, from `scores.load`.
        reported: `params/reported.csv`, read when the table has a `paper_table`.

    Returns:
        The columns of `COLUMNS`: accuracy, low, high (95 % Wilson), seed_low, seed_high (95 % t interval of the mean
        over seeds) and reported in percent; difference (from the teacher) with its paired bootstrap interval and
        difference_from_reported in points; p_value of the paired test and p_adjusted by Holm over the table's cells;
        relative_change of the average in percent of the teacher's. Seeds are averaged per question first, so that n
        counts questions.

    Raises:
        DataError: a cell has no answers.
    """
    paper = {} if reported is None or isinstance(table, AccuracyFigure) else _paper_values(table, reported)
    budgets = sorted({Budget.parse(b) for b in table.budgets}, key=lambda b: (b.tokens_per_step, b.block_size))
    rows = []
    for tokens_per_step, group in groupby(budgets, key=lambda b: b.tokens_per_step):
        cells = [(budget, benchmark) for budget in group for benchmark in table.benchmarks]
        base: list[dict[str, Any]] = []
        for key, label in scores.methods_of(experiment, table).items():
            ours = [_cell(frame, key, budget, benchmark) for budget, benchmark in cells]
            ours.append(_average(ours))
            for cell in ours:
                cell |= {"method": label, "tokens_per_step": tokens_per_step}
                value = paper.get((label, tokens_per_step, cell["block_size"], cell["benchmark"]))
                if value is not None and _same_cells(cell, cells, paper):
                    cell |= {"reported": value, "difference_from_reported": cell["accuracy"] - value}
            # The teacher comes first and is compared with nothing: `base` is still empty.
            for cell, teachers in zip(ours, base, strict=False):
                _compare(cell, teachers)
            base = base or ours
            rows += ours
    tidy = pd.DataFrame(rows, columns=list(COLUMNS))
    tidy["p_adjusted"] = holm(tidy["p_value"].astype(float))
    return _rounded(tidy)


def _cell(frame: pd.DataFrame, student: str, budget: Budget, benchmark: str) -> dict[str, Any]:
    chosen = (frame["student"] == student) & (frame["budget"] == str(budget)) & (frame["benchmark"] == benchmark)
    answers = frame[chosen]
    questions = answers.groupby("id")["correct"].mean()
    n, share = len(questions), questions.mean()
    low, high = wilson(share * n, n)
    seed_low, seed_high = seed_interval(answers.groupby("seed")["correct"].mean())
    return {
        "block_size": budget.block_size,
        "benchmark": benchmark,
        "n": n,
        "seeds": answers["seed"].nunique(),
        "accuracy": 100 * share,
        "low": 100 * low,
        "high": 100 * high,
        "seed_low": 100 * seed_low,
        "seed_high": 100 * seed_high,
        "questions": questions,
    }


def _average(cells: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy = float(np.mean([cell["accuracy"] for cell in cells]))
    return {"block_size": None, "benchmark": AVERAGE, "seeds": cells[0]["seeds"], "accuracy": accuracy}


def _compare(cell: dict[str, Any], teachers: dict[str, Any]) -> None:
    cell["difference"] = cell["accuracy"] - teachers["accuracy"]
    if cell["benchmark"] != AVERAGE:
        cell["p_value"] = paired_test(cell["questions"], teachers["questions"])
        interval = paired_bootstrap(cell["questions"], teachers["questions"])
        cell["difference_low"], cell["difference_high"] = (100 * end for end in interval)
    elif teachers["accuracy"] > 0:
        cell["relative_change"] = 100 * cell["difference"] / teachers["accuracy"]


def _paper_values(table: AccuracyTable, reported: pd.DataFrame) -> dict[_PaperKey, float]:
    """The paper's accuracies of this table and teacher; a teacher's key is the model's name in lower case."""
    wanted = (
        (reported["table"] == table.paper_table)
        & (reported["model"].str.lower() == table.teacher)
        & (reported["remasking"] == "low_confidence_static")
        & (reported["metric"] == "accuracy")
    )
    return {
        (
            row.method,
            row.tokens_per_step,
            None if pd.isna(row.block_size) else int(row.block_size),
            row.benchmark,
        ): row.value
        for row in reported[wanted].itertuples()
    }


def _same_cells(cell: dict[str, Any], ours: list[tuple[Budget, str]], paper: dict[_PaperKey, float]) -> bool:
    """An average stands beside the paper's only if both are over the same cells."""
    if cell["benchmark"] != AVERAGE:
        return True
    method, tokens = cell["method"], cell["tokens_per_step"]
    theirs = {
        (block, benchmark) for m, t, block, benchmark in paper if (m, t) == (method, tokens) and block is not None
    }
    return theirs == {(budget.block_size, benchmark) for budget, benchmark in ours}


def _rounded(tidy: pd.DataFrame) -> pd.DataFrame:
    for column, form in COLUMNS.items():
        if form == "d":
            tidy[column] = tidy[column].astype("Int64")
        elif form == ".2f":
            tidy[column] = tidy[column].astype(float).round(2) + 0.0  # -0.0 becomes 0.0
        elif form == ".4g":
            tidy[column] = [float(f"{p:.4g}") for p in tidy[column].astype(float)]
    return tidy


def _to_csv(tidy: pd.DataFrame) -> str:
    text = {
        column: ["" if pd.isna(value) else format(value, form) for value in tidy[column]]
        for column, form in COLUMNS.items()
    }
    return pd.DataFrame(text).to_csv(index=False, lineterminator="\n")
