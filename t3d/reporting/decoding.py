"""What decoding costs and what it is worth: speed, latency, steps, length and accuracy (Table 3 of the paper).

An autoregressive model has no budget: per benchmark it is shown once with batches as large as the others', and once
with one sequence at a time.
"""

from itertools import product
from typing import Any

import pandas as pd

from t3d.params import Budget, DecodingTable, Experiment
from t3d.provenance import lineage
from t3d.reporting import paper, view
from t3d.reporting.csv_format import rounded
from t3d.reporting.scores import setting
from t3d.reporting.statistics import accuracy_of
from t3d.reporting.view import DASH, Cell, Group, View

METRICS = {
    "tokens_per_second": "Tokens/s",
    "latency_seconds": "Latency (s)",
    "steps": "Steps",
    "response_tokens": "Length",
    "tokens_per_step": "Tokens per step",
    "accuracy": "Accuracy",
}
"""Metric, as `params/reported.csv` writes it -> its column."""

SATURATED, ALONE = "{}, saturated", "{}, batch 1"
"""Label of an autoregressive model -> its two methods."""

COLUMNS = (
    *("method", "tokens_per_step", "threshold", "block_size", "benchmark", "n", "seeds", "metric"),
    *("value", "low", "high", "reported", "difference_from_reported"),
)


def decoding_table(
    experiment: Experiment, table: DecodingTable, totals: pd.DataFrame, reported: pd.DataFrame | None
) -> pd.DataFrame:
    """One row per budget, benchmark, method and metric; values are means over seeds.

    Args:
        totals: per cell and seed, from `scores.load`.
        reported: `params/reported.csv`, read when the table has a `paper_table`.

    Returns:
        `COLUMNS`; `metric` is one of `METRICS`: response tokens per second of the whole decoding; latency, seconds per
        response at that speed; denoising steps and tokens of a response; tokens per denoising step; accuracy in percent
        with its 95 % Wilson interval. Last, if `totals` has them, come the rows of an autoregressive model. Its methods
        are `SATURATED` and `ALONE` with its label; the latter has speed and latency only.
    """
    theirs = paper.values_of(experiment, table, reported)
    rows = []
    for text, benchmark, shown in product(table.budgets, table.benchmarks, lineage.rows_of(experiment, table)):
        here = (totals["method"] == shown.label) & (totals["benchmark"] == benchmark) & (totals["budget"] == text)
        keys = {"method": shown.label, "benchmark": benchmark, **setting(Budget.parse(text))}
        for row in _rows(totals[here], keys):
            paper.put_beside(row, theirs, row["metric"], row["value"])
            rows.append(row)
    for place in lineage.autoregressive_cells(experiment, table):
        cell = totals[(totals["method"] == place.label) & (totals["benchmark"] == place.column)]
        if not cell.empty:
            rows += _rows(cell, {"method": SATURATED.format(place.label), "benchmark": place.column})
            alone = cell["one_at_a_time"].iloc[0]
            keys = {"method": ALONE.format(place.label), "benchmark": place.column, "n": alone["questions"], "seeds": 1}
            rows += [keys | {"metric": key, "value": alone[key]} for key in ("tokens_per_second", "latency_seconds")]
    return rounded(pd.DataFrame(rows, columns=list(COLUMNS)))


def _rows(cell: pd.DataFrame, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per metric of a cell, whose totals are one row per seed."""
    n = int(cell["n"].iloc[0])
    length, speed = (cell["response_tokens"] / cell["n"]).mean(), cell["tokens_per_second"].mean()
    accuracy = accuracy_of(cell["correct"].sum(), cell["n"].sum(), n)
    values = {
        "tokens_per_second": speed,
        "latency_seconds": length / speed,
        "steps": (cell["denoising_steps"] / cell["n"]).mean(),
        "response_tokens": length,
        "tokens_per_step": cell["response_tokens"].sum() / cell["denoising_steps"].sum(),
        "accuracy": accuracy.pop("accuracy"),
    }
    rows = [{**keys, "n": n, "seeds": len(cell), "metric": metric, "value": value} for metric, value in values.items()]
    rows[-1] |= accuracy
    return rows


def decoding_view(
    experiment: Experiment, name: str, table: DecodingTable, tidy: pd.DataFrame, speeds: pd.DataFrame
) -> View:
    """The paper's Table 3, one group of rows per budget and benchmark."""
    names = view.names_of(experiment, table)
    for place in lineage.autoregressive_cells(experiment, table):
        score = names[place.label, place.column, place.budget]
        names |= {(form.format(place.label), place.column, place.budget): score for form in (SATURATED, ALONE)}
    groups: list[Group] = []
    setting = ["block_size", "tokens_per_step", "threshold", "benchmark"]
    for (block, _, _, benchmark), group in tidy.groupby(setting, sort=False, dropna=False):
        budget, rows = view.budget_of(group.iloc[0]), []
        for method, of_method in group.groupby("method", sort=False):
            score = names[str(method), str(benchmark), budget]
            cells = {row.metric: _cell_of(row, score) for row in of_method.itertuples()}
            rows.append((str(method), tuple(cells.get(metric, Cell(DASH)) for metric in METRICS)))
        label = experiment.benchmarks[str(benchmark)].label
        groups.append(((label, DASH if pd.isna(block) else budget), rows))
    alone = tidy.loc[tidy["block_size"].isna() & tidy["method"].str.endswith(ALONE.format("")), "n"]
    return View(
        name,
        table.caption,
        common=("Benchmark", "Budget"),
        columns=tuple(METRICS.values()),
        groups=groups,
        note=view.note(
            "Tokens/s: response tokens over the time of the whole decoding; latency: seconds per response at that "
            "speed; steps: denoising steps per response, commit passes left out; accuracy in percent, 95 % Wilson "
            "interval.",
            view.about_samples(experiment, table, tidy),
            view.about_speed(speeds),
            "In parentheses: the paper's value." if tidy["reported"].notna().any() else "",
            view.about_autoregressive(
                experiment,
                table,
                tidy,
                "saturated, it is asked everything with as many sequences together as the others; at batch 1, the "
                f"first {', '.join(map(str, alone.unique()))} questions one after the other; starting it is left out",
            ),
        ),
    )


def _cell_of(row: Any, score: str) -> Cell:
    of_accuracy = row.metric == "accuracy"
    bounds = [f"95 % interval {row.low:.1f} to {row.high:.1f}"] if of_accuracy else []
    return Cell(
        view.text_of(row.metric, row.value),
        interval=view.interval(row.low, row.high) if of_accuracy else "",
        scores=(score,),
        accuracy=row.value if of_accuracy else None,
        **view.beside_the_paper(row, row.value, row.metric, [*bounds, view.counted(row)]),
    )
