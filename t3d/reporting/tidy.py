"""How tidy tables are rounded and written: one format per column, whatever the table."""

from typing import Any

import pandas as pd

_MEASURED = "measured"
"""As `measured` writes it."""

FORMATS = {
    "method": "s",
    "tokens_per_step": "g",
    "threshold": "g",
    "block_size": "d",
    "benchmark": "s",
    "metric": "s",
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
    "value": _MEASURED,
    "reported": ".2f",
    "difference_from_reported": ".2f",
    "aup": ".2f",
    "aup_low": ".2f",
    "aup_high": ".2f",
    "points": "d",
    "matched_accuracy": ".2f",
    "fastest_budget": "s",
    "tokens_per_forward": ".2f",
    "tokens_per_second": ".2f",
}
"""Column -> how the CSV writes it; a missing value is an empty field."""


def rounded(tidy: pd.DataFrame) -> pd.DataFrame:
    """The table with every number as the CSV will write it, so that renderings and CSV never disagree."""
    tidy = tidy.copy()
    for column in tidy.columns:
        form = FORMATS[column]
        if form == "d":
            tidy[column] = tidy[column].astype("Int64")
        elif form == ".2f":
            tidy[column] = tidy[column].astype(float).round(2) + 0.0  # -0.0 becomes 0.0
        elif form in (_MEASURED, ".4g"):
            tidy[column] = [float(_text(number, form)) for number in tidy[column].astype(float)]
    return tidy


def to_csv(tidy: pd.DataFrame) -> str:
    """The table as CSV text."""
    text = {
        column: ["" if pd.isna(value) else _text(value, FORMATS[column]) for value in tidy[column]]
        for column in tidy.columns
    }
    return pd.DataFrame(text).to_csv(index=False, lineterminator="\n")


def measured(number: float, form: str = ".2f") -> str:
    """A measured number as `form` has it, and of one below 0.1 two digits: a latency may be a millisecond."""
    return format(number, ".2g" if 0.0 < number < 0.1 else form)


def _text(value: Any, form: str) -> str:
    return measured(value) if form == _MEASURED else format(value, form)
