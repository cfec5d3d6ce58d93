"""Accuracy with its intervals and paired tests: one row per budget group, method, block size and benchmark.

An autoregressive model has no budget: it stands once per benchmark, without block size, and is compared with none.
"""

from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from t3d.params import AUTOREGRESSIVE, AccuracyTable, Budget, Comparison, Experiment
from t3d.provenance import lineage
from t3d.reporting import paper
from t3d.reporting.statistics import holm, paired_bootstrap, paired_test, seed_interval, wilson
from t3d.reporting.tidy import rounded

AVERAGE = "average"
"""The `benchmark` of the rows of averages."""

COLUMNS = (
    *("method", "tokens_per_step", "threshold", "block_size", "benchmark", "n", "seeds"),
    *("accuracy", "low", "high", "seed_low", "seed_high", "difference", "difference_low", "difference_high"),
    *("p_value", "p_adjusted", "relative_change", "reported", "difference_from_reported"),
)

_PaperKey = tuple[str, float, int | None, str]


def accuracy_table(
    experiment: Experiment, table: Comparison, frame: pd.DataFrame, reported: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per budget group, method, block size and benchmark, then the method's average over those cells.

    A budget group is a number of tokens per step, or a threshold. Rows are compared with the table's `base`, which is
    the teacher unless it names another. The autoregressive row, if `frame` has it, comes last.

    Args:
        frame: per question, from `scores.load`.
        reported: `params/reported.csv`, read when the table has a `paper_table`.

    Returns:
        `COLUMNS`: accuracy, low, high (95 % Wilson), seed_low, seed_high (95 % t interval of the mean over seeds) and
        reported in percent; difference (from the base) with its paired bootstrap interval and difference_from_reported
        in points; p_value of the paired test and p_adjusted by Holm over the table's cells; relative_change of the
        average in percent of the base's. Seeds are averaged per question first, so that n counts questions.

    Raises:
        DataError: a cell has no answers.
    """
    theirs = _paper_values(experiment, table, reported)
    base = base_label(experiment, table)
    methods = [row.label for row in lineage.rows_of(experiment, table)]
    budgets = sorted((Budget.parse(b) for b in table.budgets), key=_order)
    rows = []
    for (tokens_per_step, threshold), group in groupby(budgets, key=_group):
        cells = [(budget, benchmark) for budget in group for benchmark in table.benchmarks]
        found = {}
        for method in methods:
            ours = [_cell(frame, method, budget, benchmark) for budget, benchmark in cells]
            found[method] = [*ours, _average(ours)]
            for cell in found[method]:
                cell |= {"method": method, "tokens_per_step": tokens_per_step, "threshold": threshold}
                value = theirs.get((method, tokens_per_step or 0.0, cell["block_size"], cell["benchmark"]))
                if value is not None and _same_cells(cell, cells, theirs):
                    cell |= {"reported": value, "difference_from_reported": cell["accuracy"] - value}
        for method in methods:
            if method != base:
                for cell, other in zip(found[method], found[base], strict=True):
                    _compare(cell, other)
            rows += found[method]
    rows += _autoregressive(experiment, table, frame)
    tidy = pd.DataFrame(rows, columns=list(COLUMNS))
    tidy["p_adjusted"] = holm(tidy["p_value"].astype(float))
    return rounded(tidy)


def base_label(experiment: Experiment, table: Comparison) -> str:
    """Label of the row that the others are compared with."""
    base = table.base if isinstance(table, AccuracyTable) else None
    return next(row.label for row in lineage.rows_of(experiment, table) if row.model == (base or table.teacher))


def _autoregressive(experiment: Experiment, table: Comparison, frame: pd.DataFrame) -> list[dict[str, Any]]:
    places = [p for p in lineage.autoregressive_cells(experiment, table) if (frame["method"] == p.label).any()]
    cells = [_cell(frame, p.label, Budget.parse(AUTOREGRESSIVE), p.column) | {"block_size": None} for p in places]
    return [cell | {"method": places[0].label} for cell in [*cells, _average(cells)]] if cells else []


def _group(budget: Budget) -> tuple[float | None, float | None]:
    return budget.tokens_per_step, budget.threshold


def _order(budget: Budget) -> tuple[float, ...]:
    # Static budgets first, then the highest threshold, which commits fewest tokens.
    return (budget.tokens_per_step or float("inf"), -(budget.threshold or 0.0), budget.block_size)


def _cell(frame: pd.DataFrame, method: str, budget: Budget, benchmark: str) -> dict[str, Any]:
    chosen = (frame["method"] == method) & (frame["budget"] == str(budget)) & (frame["benchmark"] == benchmark)
    answers = frame[chosen]
    questions = answers.groupby("id")["correct"].mean()
    n, correct = len(questions), int(answers["correct"].sum())
    low, high = wilson(n * correct / len(answers), n) if n else wilson(0, 0)
    seed_low, seed_high = seed_interval(answers.groupby("seed")["correct"].mean())
    return {
        "block_size": budget.block_size,
        "benchmark": benchmark,
        "n": n,
        "seeds": answers["seed"].nunique(),
        # One division of counts, so that no order of summation shows in the last digit of a table.
        "accuracy": 100 * correct / len(answers),
        "low": 100 * low,
        "high": 100 * high,
        "seed_low": 100 * seed_low,
        "seed_high": 100 * seed_high,
        "questions": questions,
    }


def _average(cells: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy = float(np.mean([cell["accuracy"] for cell in cells]))
    return {"block_size": None, "benchmark": AVERAGE, "seeds": cells[0]["seeds"], "accuracy": accuracy}


def _compare(cell: dict[str, Any], base: dict[str, Any]) -> None:
    cell["difference"] = cell["accuracy"] - base["accuracy"]
    if cell["benchmark"] != AVERAGE:
        cell["p_value"] = paired_test(cell["questions"], base["questions"])
        interval = paired_bootstrap(cell["questions"], base["questions"])
        cell["difference_low"], cell["difference_high"] = (100 * end for end in interval)
    elif base["accuracy"] > 0:
        cell["relative_change"] = 100 * cell["difference"] / base["accuracy"]


def _paper_values(experiment: Experiment, table: Comparison, reported: pd.DataFrame | None) -> dict[_PaperKey, float]:
    if not isinstance(table, AccuracyTable):
        return {}
    values = paper.values_of(experiment, table, reported)
    static = values[(values["remasking"] == "low_confidence_static") & (values["metric"] == "accuracy")]
    return {
        (
            row.method,
            row.tokens_per_step,
            None if pd.isna(row.block_size) else int(row.block_size),
            row.benchmark,
        ): row.value
        for row in static.itertuples()
    }


def _same_cells(cell: dict[str, Any], ours: list[tuple[Budget, str]], values: dict[_PaperKey, float]) -> bool:
    """An average stands beside the paper's only if both are over the same cells."""
    if cell["benchmark"] != AVERAGE:
        return True
    method, tokens = cell["method"], cell["tokens_per_step"]
    theirs = {
        (block, benchmark) for m, t, block, benchmark in values if (m, t) == (method, tokens) and block is not None
    }
    return theirs == {(budget.block_size, benchmark) for budget, benchmark in ours}
