"""The reader of parquet files that others may have written, and the columns of those that several rooms read."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from t3d.errors import AGAIN, MissingInputError, reading
from t3d.provenance.store import Manifest

ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("response_ids", pa.list_(pa.int32())),
        ("step_map", pa.list_(pa.int16())),
        ("confidence", pa.list_(pa.float32())),
        ("response_tokens", pa.int32()),
        ("denoising_steps", pa.int32()),
        ("commit_passes", pa.int32()),
        ("finish_reason", pa.string()),
    ]
)
"""Answers of a model to a benchmark, a row per question."""
JUDGED = pa.schema(
    [
        ("id", pa.string()),
        ("extracted", pa.string()),
        ("correct", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""What is said of an autoregressive model's own answers; `extracted` and `reason` may lack values."""
VERDICTS = pa.schema([*JUDGED, ("response_tokens", pa.int32()), ("denoising_steps", pa.int32())])
"""What is said of answers to a benchmark."""
GAPS = pa.schema([("id", pa.string()), ("interval", pa.int64()), ("gap", pa.float64()), ("terms", pa.int64())])
"""Factorisation: see `t3d/evaluation/factorisation.py`."""
_OPTIONAL = ("extracted", "reason")
_LEAST = {"response_tokens": 0, "denoising_steps": 1, "commit_passes": 0, "interval": 1, "terms": 1}
"""Column -> its least value."""
_MAX_VALUES = 2**28
"""Numbers and texts in a file: as Python's objects they take some ten gigabytes."""


def of_artefact(manifest: Manifest, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The table of an artefact, each question in one row; raises as `Manifest.file` and `read_table`."""
    path = manifest.file(".parquet")
    table = read_table(path, schema, columns)
    with reading(path):
        for name in _LEAST.keys() & set(table.column_names):
            if len(table) and (least := pc.min(table.column(name)).as_py()) < _LEAST[name]:
                raise ValueError(f"{name} is {least}, its least value is {_LEAST[name]}")
        if (
            schema is not GAPS
            and "id" in table.column_names
            and pc.count_distinct(table.column("id")).as_py() < len(table)
        ):
            raise ValueError("an id stands in two rows")
    return table


def verdicts_of(score: Manifest) -> dict[str, bool]:
    """Whether each answer of a score is right, by the question's id; raises as `of_artefact`."""
    return {row["id"]: row["correct"] for row in of_artefact(score, VERDICTS, ["id", "correct"]).to_pylist()}


def read_table(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None, vocabulary: int = 2**31
) -> pa.Table:
    """The table of a parquet file.

    Args:
        path: the file.
        schema: names and types of its columns.
        columns: those that are read; all unless given.
        vocabulary: token numbers are below.

    Raises:
        MissingInputError: there is no such file.
        CorruptArtefactError: it is no parquet, or has other columns, or lacks values.
    """
    if not path.is_file():
        raise MissingInputError(f"{path} is missing, or is no plain file. {AGAIN}")
    with reading(path), pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        if sum(group.column(n).num_values for group in groups for n in range(group.num_columns)) > _MAX_VALUES:
            raise ValueError(f"it holds more than {_MAX_VALUES} values")
        there = file.schema_arrow.names
        if lacks := [name for name in columns or schema.names if name not in there]:
            raise ValueError(f"it has no column {lacks[0]}, its columns are {', '.join(there)}")
        table = file.read(list(columns or schema.names))
        for name, column in zip(table.column_names, table.columns, strict=True):
            if name in _OPTIONAL and pa.types.is_null(column.type):
                continue
            if _kind(column.type) != (expected := _kind(schema.field(name).type)):
                raise ValueError(f"{name} is {column.type}, expected {expected}")
            if name not in _OPTIONAL and _lacks_values(column):
                raise ValueError(f"{name} lacks values")
            if name.endswith("_ids") and column.length():
                least, largest = pc.min_max(pc.list_flatten(column)).as_py().values()
                if least is not None and not 0 <= least <= largest < vocabulary:
                    raise ValueError(f"{name} holds tokens {least} to {largest}, the vocabulary has {vocabulary}")
    return table.replace_schema_metadata(file.schema_arrow.metadata)


def _kind(of: pa.DataType) -> str:
    """A type without its width, which writers choose."""
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        return f"list of {_kind(of.value_type)}"
    kinds = {"integer": pa.types.is_integer, "number": pa.types.is_floating, "truth value": pa.types.is_boolean}
    kinds["text"] = lambda found: pa.types.is_string(found) or pa.types.is_large_string(found)
    return next((kind for kind, fits in kinds.items() if fits(of)), str(of))


def _lacks_values(column: pa.ChunkedArray) -> bool:
    inner = pc.list_flatten(column) if _kind(column.type).startswith("list") else column
    return column.null_count + inner.null_count > 0
