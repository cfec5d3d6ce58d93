"""dLLM-RL's JSON: its step maps count over the whole response, and what goes out and comes back is the same."""

import json

import pytest

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Budget
from t3d.prompts.reader import encode_prompt
from t3d.trajectories import shards, step_maps
from t3d.trajectories.record import Trajectory
from tests.conftest import SHIPPED

METADATA = shards.ShardMetadata("0" * 64, 8, 8, 0.0)


@pytest.fixture(scope="module")
def shard(tmp_path_factory, teacher, tokenizer):
    """Rollouts of the shipped teacher."""
    asked = (
        "James picks 61 pears on Monday. On Tuesday he picks 82 pears. How many pears does James have?",
        "James picks 61 peachs on Monday. Then he picks 82 peachs on Tuesday. On Wednesday, he picks 2 times the "
        "number of peachs he did on Monday. How many peachs does James have?",
    )
    prompts = [encode_prompt(tokenizer, text) for text in asked]
    options = DecodingOptions(120, stop_ids(SHIPPED), mask_id(tokenizer))
    found = decode(teacher, [Request(ids, 7) for ids in prompts], Budget.parse("b8s8"), options)
    path = tmp_path_factory.mktemp("shard") / "rollouts.parquet"
    rows = zip(("a", "b"), prompts, found, strict=True)
    records = [Trajectory(n, ids, r.ids, r.step_map, r.confidence, r.finish_reason, 7, -0.5) for n, ids, r in rows]
    shards.write(path, records, METADATA)
    return path


def converted(source, out, budget=None):
    said = step_maps.convert(source, out, SHIPPED, budget, 1.0)
    return said, json.loads(out.read_text()) if out.suffix == ".json" else shards.read(out)


def test_out_and_back_is_the_same_shard(shard, tmp_path):
    said, rows = converted(shard, tmp_path / "rows.json")
    assert said.startswith("2 trajectories are in")
    assert rows[0].keys() == {"prompt", "response", "reward", "step_map", "t3d"}
    assert converted(tmp_path / "rows.json", tmp_path / "back.parquet")[1] == shards.read(shard)


def test_steps_are_counted_over_the_whole_response(shard, tmp_path, tokenizer):
    """As dLLM-RL's scheduler counts: one number a forward, block after block, the prompt's tail not counted."""
    _, rows = converted(shard, tmp_path / "rows.json")
    for row, record in zip(rows, shards.read(shard)[0], strict=True):
        steps, end = row["step_map"], len(record.prompt_ids)
        assert len(steps) == len(tokenizer(row["response"], add_special_tokens=False)["input_ids"])
        whole = len(steps) - (end + len(steps)) % 8
        # One token a step: after whole blocks every number from 1 was used once.
        assert sorted(steps[:whole]) == list(range(1, whole + 1))


def test_rows_of_dllm_rl_become_the_same_states(shard, tmp_path):
    """Without our record: ids, blocks and steps follow from texts and step maps alone."""
    _, rows = converted(shard, tmp_path / "rows.json")
    for row in rows:
        del row["t3d"]
    (tmp_path / "theirs.json").write_text(
        json.dumps([*rows, rows[0] | {"step_map": [1, 2]}, rows[0] | {"step_map": ""}])
    )
    said, (found, metadata) = converted(tmp_path / "theirs.json", tmp_path / "theirs.parquet", "b8s8")
    assert said.endswith("2 rows had no step map of their length.")
    assert (metadata.block_size, metadata.steps, metadata.temperature) == (8, 8, 1.0)
    for theirs, row, ours in zip(found, rows, shards.read(shard)[0], strict=True):
        length = len(row["step_map"])
        assert theirs.prompt_ids == ours.prompt_ids
        assert theirs.response_ids[:length] == ours.response_ids[:length]
        whole = length - (len(ours.prompt_ids) + length) % 8
        assert theirs.step_map[:whole] == ours.step_map[:whole]
        assert len(theirs.response_ids) == len(ours.response_ids)


@pytest.mark.parametrize(
    ("content", "budget", "error", "message"),
    [
        ("{", None, CorruptArtefactError, "rows.json"),
        ('[{"prompt": "a", "response": 3}]', None, CorruptArtefactError, r"rows\.json, 0\.response"),
        ('[{"prompt": "a", "response": "b"}]', None, ParameterError, "--budget"),
        ('[{"prompt": "a", "response": "b"}]', "b4t0.9", ParameterError, "--budget is b4t0.9; trajectories have steps"),
        ('[{"prompt": "a", "response": "b"}]', "b4s4", DataError, "none of its 1 rows has a step for every token"),
        ("[]", "b4s4", DataError, "none of its 0 rows"),
        ('[{"prompt": "a", "response": "b c d", "step_map": [1, 2, 3]}]', "b8s2", CorruptArtefactError, "holds step 3"),
    ],
)
def test_another_form_is_named(tmp_path, content, budget, error, message):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(error, match=message):
        converted(tmp_path / "rows.json", tmp_path / "out.parquet", budget)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_two_files_of_one_kind_are_refused(shard, tmp_path):
    with pytest.raises(ParameterError, match=r"one is a \.parquet, the other a \.json"):
        step_maps.convert(shard, tmp_path / "other.parquet", SHIPPED, None, 1.0)
