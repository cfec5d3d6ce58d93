"""How a tidy table is written to CSV and read back: one format per column, whatever the table."""

from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

_MEASURED = "measured"
"""As `measured` writes it."""

FORMATS = {
    **dict.fromkeys(("method", "benchmark", "metric", "fastest_budget"), "s"),
    **dict.fromkeys(("block_size", "n", "seeds", "points"), "d"),
    **dict.fromkeys(("tokens_per_step", "threshold"), "g"),
    **dict.fromkeys(("p_value", "p_adjusted"), ".4g"),
    **dict.fromkeys(("accuracy", "low", "high", "seed_low", "seed_high", "relative_change", "matched_accuracy"), ".2f"),
    **dict.fromkeys(("difference", "difference_low", "difference_high"), ".2f"),
    **dict.fromkeys(("reported", "difference_from_reported"), ".2f"),
    **dict.fromkeys(("aup", "aup_low", "aup_high", "tokens_per_forward", "tokens_per_second"), ".2f"),
    "value": _MEASURED,
}
"""Column -> how the CSV writes it; a missing value is an empty field."""

_TYPES = {"s": str, "d": "Int64"}


def to_csv(tidy: pd.DataFrame) -> str:
    """The table as CSV text."""
    text = {
        column: ["" if pd.isna(value) else _text(value, FORMATS[column]) for value in tidy[column]]
        for column in tidy.columns
    }
    return pd.DataFrame(text).to_csv(index=False, lineterminator="\n")


def read(source: Path | TextIO) -> pd.DataFrame:
    """The table that `to_csv` wrote. Only an empty field is a missing value: a row may be called `None`."""
    types = {column: _TYPES.get(form, float) for column, form in FORMATS.items()}
    return pd.read_csv(source, dtype=types, keep_default_na=False, na_values=[""])


def rounded(tidy: pd.DataFrame) -> pd.DataFrame:
    """The table with every number as its CSV holds it, so that table, figure and page never disagree."""
    return read(StringIO(to_csv(tidy)))


def measured(number: float, form: str = ".2f") -> str:
    """Format a measured number; below 0.1 it gets two significant digits: a latency may be a millisecond."""
    return format(number, ".2g" if 0.0 < number < 0.1 else form)


def _text(value: Any, form: str) -> str:
    if form == _MEASURED:
        return measured(value)
    if form == "d":
        return str(int(value))
    # -0.0 becomes 0.0
    return format(np.round(value, 2) + 0.0 if form == ".2f" else value, form)
