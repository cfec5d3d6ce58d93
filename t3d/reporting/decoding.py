"""What decoding costs and what it is worth: speed, latency, steps, length and accuracy (Table 3 of the paper).

An autoregressive model has no budget: it stands once per benchmark, with as many sequences together as the others had,
and one at a time.
"""

from typing import Any

import pandas as pd

from t3d.params import Budget, DecodingTable, Experiment
from t3d.provenance import lineage
from t3d.provenance.lineage import TableCell
from t3d.reporting import paper
from t3d.reporting.statistics import wilson
from t3d.reporting.tidy import measured, rounded

METRICS = {
    "tokens_per_second": "Tokens/s",
    "latency_seconds": "Latency (s)",
    "steps": "Steps",
    "response_tokens": "Length",
    "tokens_per_step": "Tokens per step",
    "accuracy": "Accuracy",
}
"""Metric, as `params/reported.csv` writes it -> its column in a rendering."""

_DIGITS = {"latency_seconds": 2, "tokens_per_step": 2}

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
        totals: per cell and seed, from `scores.load_totals`.
        reported: `params/reported.csv`, read when the table has a `paper_table`.

    Returns:
        `COLUMNS`; `metric` is one of `METRICS`: response tokens per second of the whole decoding; latency, seconds per
        response at that speed; denoising steps and tokens of a response; tokens per denoising step; accuracy in percent
        with its 95 % Wilson interval. Last, if `totals` has them, the rows of an autoregressive model, whose method is
        `SATURATED` and `ALONE` of its label; of the latter speed and latency alone.
    """
    values = paper.values_of(experiment, table, reported)
    rows = []
    for text in table.budgets:
        budget = Budget.parse(text)
        for benchmark in table.benchmarks:
            for shown in lineage.rows_of(experiment, table):
                here = (totals["method"] == shown.label) & (totals["budget"] == text)
                cell = totals[here & (totals["benchmark"] == benchmark)]
                n = int(cell["n"].iloc[0])
                keys = {
                    "method": shown.label,
                    "tokens_per_step": budget.tokens_per_step,
                    "threshold": budget.threshold,
                    "block_size": budget.block_size,
                    "benchmark": benchmark,
                    "n": n,
                    "seeds": len(cell),
                }
                theirs = _paper_values(values, shown.label, budget, benchmark)
                for metric, value in _values(cell).items():
                    row = keys | {"metric": metric, "value": value}
                    if metric == "accuracy":
                        row["low"], row["high"] = (100 * end for end in wilson(value / 100 * n, n))
                    if metric in theirs:
                        row |= {"reported": theirs[metric], "difference_from_reported": value - theirs[metric]}
                    rows.append(row)
    for place in lineage.autoregressive_cells(experiment, table):
        rows += _autoregressive(place, totals)
    return rounded(pd.DataFrame(rows, columns=list(COLUMNS)))


def text_of(metric: str, value: float) -> str:
    """The value of a metric as table and page show it."""
    return measured(value, f".{_DIGITS.get(metric, 1)}f")


def _autoregressive(place: TableCell, totals: pd.DataFrame) -> list[dict[str, Any]]:
    cell = totals[(totals["method"] == place.label) & (totals["benchmark"] == place.column)]
    if cell.empty:
        return []
    n, alone = int(cell["n"].iloc[0]), cell["one_at_a_time"].iloc[0]
    keys = {"benchmark": place.column, "seeds": 1}
    saturated = keys | {"method": SATURATED.format(place.label), "n": n}
    rows: list[dict[str, Any]] = []
    for metric, value in _values(cell).items():
        rows.append(saturated | {"metric": metric, "value": value})
        if metric == "accuracy":
            rows[-1]["low"], rows[-1]["high"] = (100 * end for end in wilson(value / 100 * n, n))
    keys |= {"method": ALONE.format(place.label), "n": alone["questions"]}
    return rows + [keys | {"metric": key, "value": alone[key]} for key in ("tokens_per_second", "latency_seconds")]


def _values(cell: pd.DataFrame) -> dict[str, float]:
    length = (cell["response_tokens"] / cell["n"]).mean()
    speed = cell["tokens_per_second"].mean()
    return {
        "tokens_per_second": speed,
        "latency_seconds": length / speed,
        "steps": (cell["denoising_steps"] / cell["n"]).mean(),
        "response_tokens": length,
        "tokens_per_step": cell["response_tokens"].sum() / cell["denoising_steps"].sum(),
        "accuracy": 100 * cell["correct"].sum() / cell["n"].sum(),
    }


def _paper_values(values: pd.DataFrame, method: str, budget: Budget, benchmark: str) -> dict[str, float]:
    """Metric -> the paper's value."""
    here = (values["method"] == method) & (values["benchmark"] == benchmark)
    here &= values["block_size"] == budget.block_size
    if budget.threshold is not None:
        here &= values["remasking"] == f"low_confidence_dynamic@{budget.threshold:g}"
    else:
        here &= (values["remasking"] == "low_confidence_static") & (values["tokens_per_step"] == budget.tokens_per_step)
    return dict(zip(values[here]["metric"], values[here]["value"], strict=True))
