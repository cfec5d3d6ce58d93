"""Trajectory shards: parquet files of checked records, read and written here alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from t3d.errors import CorruptArtefactError, reading
from t3d.params.json_files import exactly, parse_json
from t3d.provenance.parquet import read_table
from t3d.trajectories.record import Trajectory, problem_with

SCHEMA_VERSION = 1
_METADATA_KEY = b"t3d"
_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("step_map", pa.list_(pa.int16())),
        ("confidence", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)
_SCORED = _SCHEMA.append(pa.field("score", pa.float64()))
"""Columns of a shard whose rollouts were scored, all of them."""


@exactly
@dataclass(frozen=True)
class ShardMetadata:
    """How a shard's trajectories were decoded; `teacher` is the sha256 of the decoding model's manifest."""

    teacher: str
    block_size: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    temperature: float
    remasking: str = "low_confidence_static"
    schema_version: int = SCHEMA_VERSION


def write(path: Path, trajectories: Sequence[Trajectory], metadata: ShardMetadata) -> None:
    """Write a shard.

    Raises:
        CorruptArtefactError: a record does not fit the schema; nothing is written.
    """
    _check(path, trajectories, metadata)
    schema = _SCORED if trajectories and trajectories[0].score is not None else _SCHEMA
    table = pa.Table.from_pylist([asdict(t) for t in trajectories], schema=schema)
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(asdict(metadata), sort_keys=True).encode()})
    pq.write_table(table, path, compression="zstd")


def read(path: Path, vocabulary: int = 2**31) -> tuple[list[Trajectory], ShardMetadata]:
    """Read a shard and check every record; token numbers are below `vocabulary`.

    Raises:
        CorruptArtefactError: the file is no shard of this schema version, or a record does not fit; the message names
            file and row.
    """
    with reading(path), pq.ParquetFile(path) as file:
        raw = (file.schema_arrow.metadata or {}).get(_METADATA_KEY, b"")
        is_scored = "score" in file.schema_arrow.names
    metadata = parse_json(raw, ShardMetadata, f"{path}, metadata")
    if metadata.schema_version != SCHEMA_VERSION:
        raise CorruptArtefactError(f"{path}: not a trajectory shard of schema version {SCHEMA_VERSION}.")
    table = read_table(path, _SCORED if is_scored else _SCHEMA, vocabulary=vocabulary)
    trajectories = [Trajectory(**row) for row in table.to_pylist()]
    _check(path, trajectories, metadata)
    return trajectories, metadata


def _check(path: Path, trajectories: Sequence[Trajectory], metadata: ShardMetadata) -> None:
    if len({trajectory.prompt_id for trajectory in trajectories}) < len(trajectories):
        raise CorruptArtefactError(f"{path}: prompt_id: two rows are of one prompt.")
    for row, trajectory in enumerate(trajectories):
        problem = problem_with(trajectory, metadata.block_size, metadata.steps)
        if problem is None and (trajectory.score is None) != (trajectories[0].score is None):
            problem = "some rollouts of the shard have a score and some have none"
        if problem is not None:
            raise CorruptArtefactError(f"{path}, row {row} (prompt {trajectory.prompt_id}): {problem}.")
