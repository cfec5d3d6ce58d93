"""Files of generations: what an autoregressive teacher wrote after prompts (`t3d/trajectories/generations.py`)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from t3d.errors import CorruptArtefactError
from t3d.provenance.parquet import read_table

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Generation:
    """Answer number `sample` to a prompt; `response_ids` ends with the token that ended it, if one did."""

    prompt_id: str
    sample: int
    prompt_ids: list[int]
    response_ids: list[int]
    finish_reason: str
    seed: int

    @property
    def id(self) -> str:
        """The prompt and the number of the answer."""
        return f"{self.prompt_id}#{self.sample}"


def write(rows: Sequence[Generation], path: Path) -> None:
    """Write a shard."""
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA), path)


def read(path: Path, vocabulary: int = 2**31) -> list[Generation]:
    """Read a shard; token numbers are below `vocabulary`.

    Raises:
        CorruptArtefactError: it is not one, or a row's answer is empty.
    """
    rows = [Generation(**row) for row in read_table(path, _SCHEMA, vocabulary=vocabulary).to_pylist()]
    for number, row in enumerate(rows):
        if not row.prompt_ids or not row.response_ids:
            raise CorruptArtefactError(f"{path}, row {number}: prompt_ids or response_ids is empty.")
    return rows


def complete(rows: Sequence[Generation]) -> list[Generation]:
    """The answers that ended with a stop token, not at the length limit."""
    return [row for row in rows if row.finish_reason == "stop"]
