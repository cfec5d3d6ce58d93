"""How a tidy table is written to CSV and read back: one format per column, whatever the table."""

from collections import defaultdict
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

_FORMS = {
    **dict.fromkeys(("method", "benchmark", "metric", "fastest_budget"), "s"),
    **dict.fromkeys(("block_size", "n", "seeds", "points"), "d"),
    **dict.fromkeys(("tokens_per_step", "threshold"), "g"),
    **dict.fromkeys(("p_value", "p_adjusted"), ".8g"),
}
"""Column -> how the CSV writes it; a missing value is an empty field."""
_DECIMALS = 6
"""Of every other column, not counting zeros at the end. A view rounds again, and with two decimals 23.654 became 23.6;
more would show in which order a processor adds up."""

_TYPES = {"s": str, "d": "Int64"}


def to_csv(tidy: pd.DataFrame) -> str:
    """The table as CSV text."""
    text = {
        column: ["" if pd.isna(value) else _text(value, _FORMS.get(column)) for value in tidy[column]]
        for column in tidy.columns
    }
    return pd.DataFrame(text).to_csv(index=False, lineterminator="\n")


def read(source: Path | TextIO) -> pd.DataFrame:
    """The table that `to_csv` wrote. Only an empty field is a missing value: a row may be called `None`."""
    types = defaultdict(lambda: float, {column: _TYPES.get(form, float) for column, form in _FORMS.items()})
    return pd.read_csv(source, dtype=types, keep_default_na=False, na_values=[""])


def rounded(tidy: pd.DataFrame) -> pd.DataFrame:
    """The table with every number as its CSV holds it, so that table, figure and page never disagree."""
    return read(StringIO(to_csv(tidy)))


def _text(value: Any, form: str | None) -> str:
    if form == "d":
        return str(int(value))
    # -0.0 becomes 0.0
    return format(value, form) if form else format(np.round(value, _DECIMALS) + 0.0, ".12g")
