"""Rows of a file of questions: JSON lines, a JSON list, or parquet."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t3d.errors import CorruptArtefactError, DataError, ParameterError

ENDINGS = (".jsonl", ".json", ".parquet")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, in its order.

    Raises:
        ParameterError: the file is of another kind.
        CorruptArtefactError: it cannot be read, or holds something else than rows.
    """
    if path.suffix not in ENDINGS:
        raise ParameterError(f"{path}: questions are read from {', '.join(ENDINGS)}.")
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path).to_pylist()
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else None
        rows = json.loads(text) if rows is None else rows
    except (pa.ArrowInvalid, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CorruptArtefactError(f"{path} cannot be read: {error}.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorruptArtefactError(f"{path}: expected a list of rows, each with named columns.")
    return rows


def value(path: Path, number: int, row: dict[str, Any], column: str) -> Any:
    """A row's value in a column.

    Raises:
        DataError: the row has no such column, or nothing in it; the message names file, row and the columns it has.
    """
    if row.get(column) is None:
        raise DataError(f"{path}, row {number}: no {column!r}. Its columns: {', '.join(map(str, row))}.")
    return row[column]
