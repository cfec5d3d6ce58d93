"""Examples: how a recorded rollout becomes a training row, on both sides of each switch."""

import json

import pytest

from t3d import params
from t3d.distillation import examples
from t3d.distillation.states import draw_batch
from t3d.errors import DataError
from t3d.models.folder import stop_ids
from t3d.models.layout import lay_out
from t3d.prompts.reader import encode_prompt
from t3d.provenance import store, writer
from t3d.trajectories import shards
from t3d.trajectories.record import Trajectory
from tests.conftest import SHIPPED

QUESTION, SUFFIX = "What is 2 + 3?", " Think aloud."


def experiment(rows: dict, budget: str = "b8s8") -> params.Experiment:
    return params.Experiment(
        name="tiny",
        teachers={"teacher": {"source": "shipped", "path": "data/shipped/pocket-sdar"}},
        prompt_sets={"train": {"teacher": "teacher", "split": "train", "count": 1, "suffix": SUFFIX}},
        trajectories={"rollouts": {"prompts": "train", "budget": budget}},
        students={
            "student": {
                "label": "T3D",
                "trajectories": "rollouts",
                "objective": {"name": "t3d"},
                "states": {"kind": "trajectory"},
                "rows": rows,
                "optimizer": {"steps": 1, "batch_size": 1, "learning_rate": 1e-3},
            }
        },
    )


def test_keep_takes_the_likeliest_of_each_key(tmp_path, tokenizer):
    """Of two keys, one of them in two shards; of equal scores the first by id."""
    content = experiment({}).model_dump(mode="json", exclude_unset=True)
    content["prompt_sets"]["others"] = content["prompt_sets"]["train"]
    rollouts = {"prompts": "train", "budget": "b8s8", "scored": True}
    content["trajectories"] = {"one": rollouts | {"shards": 2}, "two": rollouts | {"prompts": "others"}}
    content["students"]["student"] |= {"trajectories": ["one", "two"], "keep": 0.5}
    tiny = params.Experiment.model_validate(content)

    def shard(artefact, scores):
        records = [
            Trajectory(name, [5] * 8, [6] * 8, [*range(1, 9)], [0.5] * 8, "stop", 0, score)
            for name, score in scores.items()
        ]
        out = tmp_path / f"{artefact}.manifest.json"
        with writer.writing(tiny, artefact, out, inputs=[]) as job:
            shards.write(job.file(".parquet"), records, shards.ShardMetadata("0" * 64, 8, 8, 0.1))
        return store.read(out)

    def kept(**changes):
        student = tiny.students["student"].model_copy(update=changes)
        return [e.id for e in examples.load(tiny, student, manifests, tokenizer, stop_ids(SHIPPED))[0]]

    manifests = [
        shard("trajectories/one/0-of-2", {"d": -0.3, "b": -0.2, "f": -3.0}),
        # All of the other key are less likely than all of this one.
        shard("trajectories/two/0-of-1", {"x": -9.0, "y": -8.0}),
        shard("trajectories/one/1-of-2", {"a": -0.3, "c": -0.1, "e": -2.0}),
    ]
    assert kept() == ["a", "b", "c", "y"]
    assert kept(keep=0.1) == ["c", "y"]
    assert kept(keep=1.0) == kept(keep=None) == [*"abcdef", "x", "y"]
    manifests[1] = shard("trajectories/two/0-of-1", {"x": None, "y": None})
    assert kept(keep=None) == [*"abcdef", "x", "y"]
    with pytest.raises(DataError, match=r"trajectories\.two have no scores, which `keep` chooses by"):
        kept()


@pytest.fixture
def load(tmp_path, tokenizer, monkeypatch):
    """Loads the examples of one rollout whose response ends in the middle of its last block."""
    monkeypatch.chdir(tmp_path)
    prompt = encode_prompt(tokenizer, QUESTION + SUFFIX)
    answer = [*tokenizer("5.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    response = answer + [tokenizer.pad_token_id] * (-(len(prompt) + len(answer)) % 8 or 8)

    def loaded(rows: dict, budget: str = "b8s8", with_prompts: bool = False):
        tiny = experiment(rows, budget)
        size = int(budget[1])
        first = -len(prompt) % size  # response tokens of the block that the prompt begins
        steps = [i + 1 if i < first else (i - first) % size + 1 for i in range(len(response))]
        record = Trajectory("q", prompt, response, steps, [0.5] * len(steps), "stop", 0)
        out = tmp_path / "rollouts" / "0-of-1.manifest.json"
        with writer.writing(tiny, "trajectories/rollouts/0-of-1", out, inputs=[]) as job:
            shards.write(job.file(".parquet"), [record], shards.ShardMetadata("0" * 64, size, size, 0.1))
        manifests = [store.read(out)]
        if with_prompts:
            out = tmp_path / "train.manifest.json"
            with writer.writing(tiny, "prompts/train", out, inputs=[]) as job:
                line = {"id": "q", "domain": "gsm", "split": "train", "text": QUESTION, "prompt_ids": prompt}
                line |= {"reference": "5.", "reference_ids": answer, "answer": "5"}
                job.file(".jsonl").write_text(json.dumps(line) + "\n")
            manifests.append(store.read(out))
        return examples.load(tiny, tiny.students["student"], manifests, tokenizer, stop_ids(SHIPPED))[0][0]

    loaded.prompt, loaded.response, loaded.answer = prompt, response, answer
    return loaded


def test_a_row_is_what_the_decoder_saw(load):
    example = load({})
    assert (example.prompt_ids, example.response_ids) == (load.prompt, load.response)
    assert len(example.step_map) == len(load.response)


def test_the_terminal_block_can_be_cut(load):
    example = load({"terminal_block": "cut"})
    assert example.response_ids == load.answer
    assert len(example.step_map) == len(load.answer)


def test_the_prompt_can_lack_its_suffix(load, tokenizer):
    example = load({"prompt": "bare"}, with_prompts=True)
    assert example.prompt_ids == encode_prompt(tokenizer, QUESTION)
    assert example.prompt_ids != load.prompt


def test_a_row_without_its_suffix_keeps_the_blocks_it_was_decoded_in(load, tokenizer):
    """Each block of the response holds every step 1..8 once, as decoded; so does every block that is cut."""
    shorter = len(load.prompt) - len(encode_prompt(tokenizer, QUESTION))
    assert shorter % 8
    for limit in (None, 8, 16):
        example = load({"prompt": "bare", "max_response_tokens": limit}, with_prompts=True)
        assert example.left_out == shorter
        whole = load({"max_response_tokens": limit})
        assert example.response_ids == whole.response_ids
        for size, grid in ((8, "global"), (8, "response")):
            layouts = [
                lay_out([row.row], [len(row.prompt_ids)], size, grid, [row.left_out]) for row in (example, whole)
            ]
            first, second = (each.noisy_blocks[each.is_response] for each in layouts)
            assert (first - first[0]).tolist() == (second - second[0]).tolist()
    batch = draw_batch(
        [load({"prompt": "bare"}, with_prompts=True)],
        [0],
        params.States(kind="trajectory", mask_ratios={0.5: 1.0}),
        steps=8,
        block_size=8,
        mask_id=3,
        vocabulary=300,
        seed=0,
    )
    shown = batch.layout.is_response
    steps, blocks = batch.step_map[shown], batch.layout.noisy_blocks[shown]
    for block in blocks.unique():
        inside = steps[blocks == block].sort().values.tolist()
        assert inside == list(range(1, len(inside) + 1))


def test_other_rollout_blocks_must_be_asked_for(load):
    with pytest.raises(DataError, match=r"decoded in blocks of 4.*rows\.rollout_blocks: any"):
        load({}, budget="b4s4")
    assert load({"rollout_blocks": "any"}, budget="b4s4").response_ids == load.response
