"""Rows of a file of questions: JSON lines, a JSON list, or parquet."""

import codecs
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from t3d.errors import CorruptArtefactError, DataError, ParameterError, reading, short
from t3d.params.json_files import read_json, read_lines

COPY = "Fetch or copy it again; a file of JSON lines ends in .jsonl."
ENDINGS = (".jsonl", ".json", ".parquet")
_MARKS = {
    codecs.BOM_UTF8: "begins with a byte order mark",
    codecs.BOM_UTF16_LE: "is text in UTF-16",
    codecs.BOM_UTF16_BE: "is text in UTF-16",
}


def read(path: Path, do: str = COPY) -> list[dict[str, Any]]:
    """The rows of a file, in its order.

    Args:
        path: of the file.
        do: what to do about a file that cannot be read.

    Raises:
        ParameterError: the file is of another kind.
        CorruptArtefactError: it cannot be read, or holds something else than rows.
    """
    if path.suffix not in ENDINGS:
        raise ParameterError(f"{path}: questions are read from {', '.join(ENDINGS)}.")
    if path.suffix == ".parquet":
        with reading(path, do):
            return pq.read_table(path).to_pylist()
    try:
        if path.suffix == ".jsonl":
            return list(read_lines(path, dict[str, Any], do))
        return read_json(path, list[dict[str, Any]], do)
    except CorruptArtefactError as error:
        # The reader of JSON says nothing of encodings.
        if fault := _fault_of_encoding(path.read_bytes()):
            raise CorruptArtefactError(f"{path} {fault}; save it as UTF-8 without a byte order mark. {do}") from error
        raise


def _fault_of_encoding(content: bytes) -> str:
    """Why bytes are not the text that is read here, in words; empty if they are."""
    for mark, fault in _MARKS.items():
        if content.startswith(mark):
            return fault
    if b"\0" in content[:4]:
        return "is not text in UTF-8, it may be UTF-16"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return f"is not text in UTF-8 (line {line})"
    return ""


@dataclass(frozen=True)
class Place:
    """How messages name a row of a file: by its line in JSON lines, elsewhere by its number, from 0 on.

    The file is read for it when the text is asked for, so that a row without a fault costs nothing.
    """

    path: Path
    number: int

    def __str__(self) -> str:
        if self.path.suffix == ".jsonl" and self.path.is_file():
            lines = enumerate(self.path.read_bytes().split(b"\n"), start=1)
            filled = [line for line, content in lines if content.strip()]
            if self.number < len(filled):
                return f"{self.path}, line {filled[self.number]}"
        return f"{self.path}, row {self.number} (counted from 0)"


def text(path: Path, number: int, row: dict[str, Any], column: str, may_be_empty: bool = False) -> str:
    """A row's value in a column as text; raises as `value`, also of what is neither a text nor a number, or empty."""
    found = value(path, number, row, column)
    if not isinstance(found, str | int | float) or not (may_be_empty or str(found).strip()):
        raise DataError(f"{Place(path, number)}: {column} is no text: {short(repr(found))}.")
    return str(found)


def value(path: Path, number: int, row: dict[str, Any], column: str) -> Any:
    """A row's value in a column.

    Raises:
        DataError: the row has no such column, or nothing in it; the message names file, row and the columns it has.
    """
    if column in row and row[column] is None:
        raise DataError(f"{Place(path, number)}: {column!r} is null; every row needs one.")
    if column not in row:
        columns = short(", ".join(map(str, row)))
        raise DataError(f"{Place(path, number)}: no {column!r}. Its columns: {columns}. Name one of them, or add it.")
    return row[column]
