"""The paper's numbers (`params/reported.csv`) that belong to a table, under our labels."""

from typing import Any

import pandas as pd

from t3d.params import Comparison, Experiment, Table
from t3d.provenance import lineage

Values = dict[tuple[Any, ...], float]
"""Method, benchmark, block size (None of an average), tokens per step, threshold, metric -> the paper's value."""


def values_of(experiment: Experiment, product: Comparison, reported: pd.DataFrame | None) -> Values:
    """The values of this table's number, teacher and methods; a figure has none.

    A teacher is the paper's model of the same name in lower case, a method the paper's row that `paper_rows` names, or
    else the one with our label.

    Args:
        reported: `params/reported.csv`, or None.
    """
    if reported is None or not isinstance(product, Table):
        return {}
    ours = {product.paper_rows.get(row.model, row.label): row.label for row in lineage.rows_of(experiment, product)}
    wanted = (reported["table"] == product.paper_table) & (reported["model"].str.lower() == product.teacher)
    values: Values = {}
    for row in reported[wanted & reported["method"].isin(ours)].itertuples():
        block = None if pd.isna(row.block_size) else row.block_size
        _, dynamic, threshold = str(row.remasking).partition("@")
        setting = (None, float(threshold)) if dynamic else (row.tokens_per_step, None)
        values[ours[str(row.method)], row.benchmark, block, *setting, row.metric] = row.value
    return values


def put_beside(row: dict[str, Any], values: Values, metric: str, value: float) -> None:
    """Add to our row, whose `metric` is `value`, what the paper has: `reported` and `difference_from_reported`."""
    keys = ("method", "benchmark", "block_size", "tokens_per_step", "threshold")
    if (reported := values.get((*(row[key] for key in keys), metric))) is not None:
        row |= {"reported": reported, "difference_from_reported": value - reported}
