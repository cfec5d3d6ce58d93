"""The reader of JSON that others may have written: it becomes values of the expected types (tables: `parquet.py`).

What is not of the expected form ends in a CorruptArtefactError that names file, line and field.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from t3d.errors import AGAIN, CorruptArtefactError, MissingInputError, short

T = TypeVar("T")
_MAX_BYTES = 2**32
"""Of a file; the largest that a stage writes, prompts of millions of questions, are below."""
exactly = with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
"""Decorates the class of a record: it has no other keys, and its numbers are finite."""
open_record = with_config(ConfigDict(extra="allow"))
"""Decorates the class of a record that may have other keys."""


def read_bytes(path: Path, do: str = AGAIN) -> bytes:
    """The content of a file.

    Raises:
        MissingInputError: there is no such file, or it is a pipe or a device.
        CorruptArtefactError: it is larger than anything that is read here.
    """
    if not path.is_file():
        raise MissingInputError(f"{path} is missing, or is no plain file. {do}")
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise CorruptArtefactError(f"{path} has {size} bytes, more than {_MAX_BYTES}. {do}")
    return path.read_bytes()


def read_json(path: Path, kind: type[T], do: str = AGAIN) -> T:
    """What a JSON file holds, as a value of type `kind`; raises as `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, do), kind, str(path), do)


def read_lines(path: Path, kind: type[T], do: str = AGAIN) -> Iterator[T]:
    """What each line of a file of JSON lines holds; raises as `read_json`."""
    for number, line in enumerate(read_bytes(path, do).split(b"\n"), start=1):
        if line.strip():
            yield parse_json(line, kind, f"{path}, line {number}", do)


def parse_json(text: str | bytes, kind: type[T], where: str, do: str = AGAIN) -> T:
    """A text of JSON as a value of type `kind`, a dataclass for example; a text in it stands for no number.

    Raises:
        CorruptArtefactError: it is none; the message begins with `where` and names the field.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(kind)  # type: ignore[arg-type]
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = short(".".join(map(str, first["loc"])))
        fault = {"missing": "is missing", "unexpected_keyword_argument": "unknown key"}.get(first["type"], first["msg"])
        found = "" if first["type"] in ("missing", "json_invalid") else f" Found: {short(repr(first['input']))}."
        raise CorruptArtefactError(f"{where}{f', {place}' if place else ''}: {short(fault)}.{found} {do}") from error


@lru_cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)
