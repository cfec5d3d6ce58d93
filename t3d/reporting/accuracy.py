"""Accuracy with its intervals and paired tests: one row per budget group, method, block size and benchmark.

An autoregressive model has no budget: it has one row per benchmark, without block size, and is compared with no other
row.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd

from t3d.params import AUTOREGRESSIVE, AccuracyTable, Budget, Comparison, Experiment
from t3d.provenance import lineage
from t3d.reporting import paper, view
from t3d.reporting.csv_format import rounded
from t3d.reporting.scores import setting
from t3d.reporting.statistics import accuracy_of, holm, paired_bootstrap, paired_test, seed_interval
from t3d.reporting.view import DAGGER, DASH, MINUS, Cell, Group, Row, View

AVERAGE = "average"
"""The `benchmark` of the rows of averages."""
RELATIVE = "Relative change"
"""Head of the last column; the page shows points instead, which a small base does not blow up."""
_SIGNIFICANT = 0.05
_Answers = dict[tuple[str, ...], pd.DataFrame]
"""Method, budget and benchmark -> the answers of all seeds, a row each; no rows where there are none."""
_Group = tuple[float | None, float | None]
"""Tokens per step and threshold, of which a budget has one."""

COLUMNS = (
    *("method", "tokens_per_step", "threshold", "block_size", "benchmark", "n", "seeds"),
    *("accuracy", "low", "high", "seed_low", "seed_high", "difference", "difference_low", "difference_high"),
    *("p_value", "p_adjusted", "relative_change", "reported", "difference_from_reported"),
)


def accuracy_table(
    experiment: Experiment, table: Comparison, frame: pd.DataFrame, reported: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per budget group, method, block size and benchmark, then the method's average over those cells.

    A budget group is a number of tokens per step, or a threshold. Rows are compared with the table's `base`, which is
    the teacher unless it names another, or each with itself at `base_budget`. The autoregressive row, if `frame` has
    it, comes last.

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
    theirs = paper.values_of(experiment, table, reported)
    budgets = sorted((Budget.parse(b) for b in table.budgets), key=_order)
    answers = _by_cell(frame)
    groups: dict[_Group, dict[str, list[dict[str, Any]]]] = {}
    for key, group in groupby(budgets, key=_group):
        cells = [(budget, benchmark) for budget in group for benchmark in table.benchmarks]
        by_method = groups[key] = {}
        for method in (row.label for row in lineage.rows_of(experiment, table)):
            ours = [_cell(answers, method, budget, benchmark) for budget, benchmark in cells]
            by_method[method] = [*ours, _average(ours)]
            for cell in by_method[method]:
                cell["method"] = method
                if cell["benchmark"] != AVERAGE or _same_cells(cell, cells, theirs):
                    paper.put_beside(cell, theirs, "accuracy", cell["accuracy"])
    label = base_label(experiment, table)
    own = table.base_budget if isinstance(table, AccuracyTable) else None
    for by_method in groups.values():
        for method, ours in by_method.items():
            base = groups[_group(Budget.parse(own))][method] if own else by_method[label]
            if base is not ours:
                for cell, other in zip(ours, base, strict=True):
                    _compare(cell, other)
    rows = [cell for by_method in groups.values() for ours in by_method.values() for cell in ours]
    rows += _autoregressive(experiment, table, answers)
    tidy = pd.DataFrame(rows, columns=list(COLUMNS))
    tidy["p_adjusted"] = holm(tidy["p_value"].astype(float))
    return rounded(tidy)


def autoregressive_rows(experiment: Experiment, table: Comparison, frame: pd.DataFrame) -> pd.DataFrame:
    """The autoregressive rows of `accuracy_table` alone, without the average; none if `frame` has no such answers."""
    rows = _autoregressive(experiment, table, _by_cell(frame))[:-1]
    return rounded(pd.DataFrame(rows, columns=list(COLUMNS)))


def base_label(experiment: Experiment, table: Comparison) -> str:
    """Label of the row that the others are compared with."""
    base = table.base if isinstance(table, AccuracyTable) else None
    return next(row.label for row in lineage.rows_of(experiment, table) if row.model == (base or table.teacher))


def _group(budget: Budget) -> _Group:
    return budget.tokens_per_step, budget.threshold


def _by_cell(frame: pd.DataFrame) -> _Answers:
    cells = frame.groupby(["method", "budget", "benchmark"], sort=False)
    return defaultdict(lambda: frame[:0], {tuple(map(str, key)): rows for key, rows in cells})


def _autoregressive(experiment: Experiment, table: Comparison, answers: _Answers) -> list[dict[str, Any]]:
    methods = {method for method, _, _ in answers}
    places = [place for place in lineage.autoregressive_cells(experiment, table) if place.label in methods]
    budget = Budget.parse(AUTOREGRESSIVE)
    without = {"block_size": None, "tokens_per_step": None, "threshold": None}
    cells = [_cell(answers, place.label, budget, place.column) | without for place in places]
    return [cell | {"method": places[0].label} for cell in [*cells, _average(cells)]] if cells else []


def _order(budget: Budget) -> tuple[float, ...]:
    # Static budgets first, then the highest threshold, which commits fewest tokens.
    return (budget.tokens_per_step or float("inf"), -(budget.threshold or 0.0), budget.block_size)


def _cell(by_cell: _Answers, method: str, budget: Budget, benchmark: str) -> dict[str, Any]:
    answers = by_cell[method, str(budget), benchmark]
    questions = answers.groupby("id")["correct"].mean()
    seed_low, seed_high = seed_interval(answers.groupby("seed")["correct"].mean())
    return {
        **setting(budget),
        "benchmark": benchmark,
        "n": len(questions),
        "seeds": answers["seed"].nunique(),
        **accuracy_of(int(answers["correct"].sum()), len(answers), len(questions)),
        "seed_low": 100 * seed_low,
        "seed_high": 100 * seed_high,
        "questions": questions,
    }


def _average(cells: list[dict[str, Any]]) -> dict[str, Any]:
    accuracy = float(np.mean([cell["accuracy"] for cell in cells]))
    shared = {key: cells[0][key] for key in ("tokens_per_step", "threshold", "seeds")}
    return {"block_size": None, "benchmark": AVERAGE, "accuracy": accuracy} | shared


def _compare(cell: dict[str, Any], base: dict[str, Any]) -> None:
    cell["difference"] = cell["accuracy"] - base["accuracy"]
    if cell["benchmark"] != AVERAGE:
        cell["p_value"] = paired_test(cell["questions"], base["questions"])
        interval = paired_bootstrap(cell["questions"], base["questions"])
        cell["difference_low"], cell["difference_high"] = (100 * end for end in interval)
    elif base["accuracy"] > 0:
        cell["relative_change"] = 100 * cell["difference"] / base["accuracy"]


def _same_cells(average: dict[str, Any], ours: list[tuple[Budget, str]], values: paper.Values) -> bool:
    """An average stands beside the paper's only if both are over the same cells."""
    keys = tuple(average[key] for key in ("method", "tokens_per_step", "threshold"))
    theirs = {(block, benchmark) for m, benchmark, block, *of, _ in values if (m, *of) == keys and block is not None}
    return theirs == {(budget.block_size, benchmark) for budget, benchmark in ours}


def accuracy_view(experiment: Experiment, name: str, table: AccuracyTable, tidy: pd.DataFrame) -> View:
    """The paper's Table 1: rows tokens per step x method, columns block size x benchmark, average, relative change."""
    names, base = view.names_of(experiment, table), base_label(experiment, table)
    base = f"its own {table.base_budget}" if table.base_budget else base
    # Differences stand in the cells where they are what the table is about.
    beside = table.base is not None or table.base_budget is not None
    blocks = sorted({Budget.parse(budget).block_size for budget in table.budgets})
    columns = [*product(blocks, table.benchmarks), (None, AVERAGE)]
    groups: list[Group] = []
    for (tokens, threshold), group in tidy.groupby(["tokens_per_step", "threshold"], sort=False, dropna=False):
        autoregressive = pd.isna(tokens) and pd.isna(threshold)
        head = DASH if autoregressive else f"p > {threshold:g}" if pd.isna(tokens) else f"{tokens:g}"
        best = group.groupby(["block_size", "benchmark"], dropna=False)["accuracy"].transform("max")
        marked = group.assign(best=(group["accuracy"] == best) & (not autoregressive))
        rows: list[Row] = []
        for method, of_method in marked.groupby("method", sort=False):
            cells: dict[tuple[int | None, str], Cell] = {}
            scores: list[str] = []
            for row in of_method.itertuples():
                if row.benchmark == AVERAGE:
                    cells[None, AVERAGE] = _cell_of(row, base, beside, scores)
                    continue
                scores.append(names[str(method), str(row.benchmark), view.budget_of(row)])
                # Without blocks it stands under the first block size.
                block = blocks[0] if autoregressive else row.block_size
                cells[block, str(row.benchmark)] = _cell_of(row, base, beside, scores[-1:])
            change, points = of_method[["relative_change", "difference"]].iloc[-1]
            last = Cell(DASH if pd.isna(change) else f"{view.signed(change)} %")
            last = replace(last, points=DASH if pd.isna(points) else view.signed(points))
            blank = Cell("" if autoregressive else DASH)
            rows.append((str(method), (*(cells.get(column, blank) for column in columns), last)))
        groups.append(((head,), rows))
    labels = [experiment.benchmarks[benchmark].label for benchmark in table.benchmarks]
    return View(
        name,
        table.caption,
        common=("Tokens per step",),
        columns=(*labels * len(blocks), AVERAGE.capitalize(), RELATIVE),
        blocks=(*((block, len(labels)) for block in blocks), (None, 2)),
        groups=groups,
        note=view.note(
            f"Accuracy in percent; in parentheses the difference from {base} with its 95 % paired bootstrap interval."
            if beside
            else "Accuracy in percent with its 95 % Wilson interval over the questions.",
            view.about_samples(experiment, table, tidy),
            f"Bold: best of its column at these tokens per step. {DASH}: no such budget or nothing to compare.",
            f"{DAGGER}: p < {_SIGNIFICANT} against {base}, two-sided exact sign-flip test paired by question (exact "
            "McNemar for one seed), corrected for the number of cells by Holm's method.",
            "Last, in parentheses: the paper's value." if tidy["reported"].notna().any() else "",
            view.about_autoregressive(
                experiment, table, tidy, "it has no blocks, and stands once, under the first block size"
            ),
        ),
    )


def _cell_of(row: Any, base: str, beside: bool, scores: list[str]) -> Cell:
    single, detail, difference = row.benchmark != AVERAGE, [], ""
    if single:
        detail.append(f"95 % interval {row.low:.1f} to {row.high:.1f}, {view.counted(row)}")
    if not pd.isna(row.seed_low):
        detail.append(f"95 % interval over seeds {row.seed_low:.1f} to {row.seed_high:.1f}")
    if not pd.isna(row.difference):
        ends = f" [{view.signed(row.difference_low)}, {view.signed(row.difference_high)}]" if single else ""
        detail.append(f"{view.signed(row.difference)} points from {base}{ends}")
        if beside:
            ends = f" {view.interval(row.difference_low, row.difference_high)}".replace("-", MINUS) if single else ""
            difference = f"({view.signed(row.difference)}{ends})"
    if not pd.isna(row.p_value):
        detail.append(f"p = {row.p_value:.3g}, corrected {row.p_adjusted:.3g}")
    return Cell(
        view.text_of("accuracy", row.accuracy),
        interval=view.interval(row.low, row.high) if single else "",
        difference=difference,
        scores=tuple(scores),
        best=bool(row.best),
        differs=bool(row.p_adjusted < _SIGNIFICANT),
        accuracy=row.accuracy if single else None,
        **view.beside_the_paper(row, row.accuracy, "accuracy", detail),
    )
