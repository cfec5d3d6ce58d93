"""Rows of a file of questions: JSON lines, a JSON list, or parquet."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from t3d.errors import DataError, ParameterError, reading, short
from t3d.params.json_files import read_json, read_lines

_COPY = "Fetch or copy it again; a file of JSON lines ends in .jsonl."
ENDINGS = (".jsonl", ".json", ".parquet")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, in its order.

    Raises:
        ParameterError: the file is of another kind.
        CorruptArtefactError: it cannot be read, or holds something else than rows.
    """
    if path.suffix not in ENDINGS:
        raise ParameterError(f"{path}: questions are read from {', '.join(ENDINGS)}.")
    if path.suffix == ".parquet":
        with reading(path, _COPY):
            return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return list(read_lines(path, dict[str, Any], _COPY))
    return read_json(path, list[dict[str, Any]], _COPY)


def text(path: Path, number: int, row: dict[str, Any], column: str, may_be_empty: bool = False) -> str:
    """A row's value in a column as text; raises as `value`, also of what is neither a text nor a number, or empty."""
    found = value(path, number, row, column)
    if not isinstance(found, str | int | float) or not (may_be_empty or str(found).strip()):
        raise DataError(f"{path}, row {number}: {column} is no text: {short(repr(found))}.")
    return str(found)


def value(path: Path, number: int, row: dict[str, Any], column: str) -> Any:
    """A row's value in a column.

    Raises:
        DataError: the row has no such column, or nothing in it; the message names file, row and the columns it has.
    """
    if row.get(column) is None:
        raise DataError(f"{path}, row {number}: no {column!r}. Its columns: {short(', '.join(map(str, row)))}.")
    return row[column]
