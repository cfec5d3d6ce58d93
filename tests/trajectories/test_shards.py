"""Trajectory shards: what is written is read, and what does not fit is refused by file and row."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t3d.errors import CorruptArtefactError
from t3d.trajectories import shards
from t3d.trajectories.record import Trajectory

METADATA = shards.ShardMetadata(teacher="0" * 64, block_size=4, steps=4, temperature=0.1)


def trajectory(prompt_id="a", **changes):
    sound = Trajectory(
        prompt_id=prompt_id,
        prompt_ids=[9, 8, 7, 6, 5],
        response_ids=[10, 11, 12, 13, 14, 15, 16],
        step_map=[2, 1, 3, 4, 1, 2, 3],
        confidence=[0.5] * 7,
        finish_reason="stop",
        seed=2**62,
    )
    return replace(sound, **changes)


def test_round_trip(tmp_path):
    path = tmp_path / "shard.parquet"
    written = [trajectory("a"), trajectory("b", finish_reason="length")]
    shards.write(path, written, METADATA)
    assert shards.read(path) == (written, METADATA)


def test_scores_are_a_column_of_shards_that_have_them(tmp_path):
    plain, scored = tmp_path / "plain.parquet", tmp_path / "scored.parquet"
    shards.write(plain, [trajectory("a")], METADATA)
    assert pq.read_table(plain).schema.names[-1] == "seed"
    written = [trajectory("a", score=-0.1), trajectory("b", score=-1.0 / 3)]
    shards.write(scored, written, METADATA)
    assert pq.read_table(scored).schema.names[-2:] == ["seed", "score"]
    assert shards.read(scored) == (written, METADATA)
    with pytest.raises(
        CorruptArtefactError, match=r"row 1 \(prompt b\): some rollouts .* have a score and some have none"
    ):
        shards.write(tmp_path / "mixed.parquet", [trajectory("a", score=-0.1), trajectory("b")], METADATA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_map": [2, 1, 3, 4, 1, 2]}, "step_map has 6 entries for 7 response tokens"),
        ({"step_map": [2, 1, 3, 4, 1, 2, 5]}, "step_map holds step 5, allowed are 1..4"),
        ({"step_map": [2, 1, 3, 4, 1, 2, 0]}, "step_map holds step 0"),
        ({"step_map": [2, 1, 3, 1, 1, 3, 4]}, "step_map has no step 2 in block 2"),
        ({"step_map": [2, 2, 3, 4, 1, 2, 3]}, "step_map has no step 1 in block 1"),
        ({"confidence": [0.5] * 6}, "confidence has 6 entries"),
        ({"confidence": [0.5] * 6 + [float("nan")]}, "confidence holds nan, which is no probability"),
        ({"confidence": [float("inf")] + [0.5] * 6}, "confidence holds inf, which is no probability"),
        ({"confidence": [-0.5] + [0.5] * 6}, "confidence holds -0.5, which is no probability"),
        ({"response_ids": [1] * 6, "step_map": [1, 2, 3, 1, 2, 3], "confidence": [1.0] * 6}, "not whole blocks of 4"),
        ({"score": float("nan")}, "score is nan"),
        ({"finish_reason": "error"}, "finish_reason is 'error'"),
        ({"response_ids": [], "step_map": [], "confidence": []}, "response_ids is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, changes, message):
    path = tmp_path / "shard.parquet"
    rows = [trajectory("a"), trajectory("b", **changes)]
    with pytest.raises(CorruptArtefactError, match=message) as error:
        shards.write(path, rows, METADATA)
    assert "row 1 (prompt b)" in str(error.value)
    assert not path.exists()


def test_a_shard_edited_behind_our_back_is_refused_on_reading(tmp_path):
    path = tmp_path / "shard.parquet"
    shards.write(path, [trajectory()], METADATA)
    table = pq.read_table(path)
    column = table.schema.names.index("step_map")
    field = table.schema.field(column)
    broken = table.set_column(column, field, pa.array([[2, 1, 3, 4, 1, 3, 4]], type=field.type))
    pq.write_table(broken, path)
    with pytest.raises(CorruptArtefactError, match=r"shard\.parquet, row 0 .* no step 2"):
        shards.read(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "shard.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(CorruptArtefactError, match=r"shard\.parquet cannot be read"):
        shards.read(path)
    shards.write(path, [trajectory()], METADATA)
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    with pytest.raises(CorruptArtefactError, match=r"shard\.parquet, metadata: "):
        shards.read(path)
