"""The paper's numbers (`params/reported.csv`) that belong to a table, under our labels."""

import pandas as pd

from t3d.params import Experiment, Table
from t3d.provenance import lineage

_COLUMNS = ["method", "benchmark", "block_size", "tokens_per_step", "remasking", "metric", "value"]


def values_of(experiment: Experiment, table: Table, reported: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of `reported` of this table's number, teacher and methods.

    A teacher is the paper's model of the same name in lower case, a method the paper's row that `paper_rows` names, or
    else the one with our label.

    Args:
        reported: `params/reported.csv`, or None.

    Returns:
        The columns of `reported`; `method` holds our label.
    """
    if reported is None:
        return pd.DataFrame(columns=_COLUMNS)
    ours = {table.paper_rows.get(row.model, row.label): row.label for row in lineage.rows_of(experiment, table)}
    wanted = (reported["table"] == table.paper_table) & (reported["model"].str.lower() == table.teacher)
    return reported[wanted & reported["method"].isin(ours)].assign(method=lambda rows: rows["method"].map(ours))
