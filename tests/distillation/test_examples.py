"""Examples: how a recorded rollout becomes a training row, on both sides of each switch."""

import json

import pytest

from t3d import params, receipts
from t3d.distillation import examples
from t3d.errors import DataError
from t3d.models.sdar import stop_ids
from t3d.prompts.sets import encode_prompt
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
        with receipts.making(tiny, "trajectories/rollouts/0-of-1", out, inputs=[]) as job:
            shards.write(job.file(".parquet"), [record], shards.ShardMetadata("0" * 64, size, size, 0.1))
        manifests = [receipts.read(out)]
        if with_prompts:
            out = tmp_path / "train.manifest.json"
            with receipts.making(tiny, "prompts/train", out, inputs=[]) as job:
                line = {"id": "q", "domain": "gsm", "split": "train", "text": QUESTION, "prompt_ids": prompt}
                line |= {"reference": "5.", "reference_ids": answer, "answer": "5"}
                job.file(".jsonl").write_text(json.dumps(line) + "\n")
            manifests.append(receipts.read(out))
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
    with pytest.raises(DataError, match=r"learns from prompts/train, trajectories/rollouts/0-of-1; found"):
        load({"prompt": "bare"})


def test_other_rollout_blocks_must_be_asked_for(load):
    with pytest.raises(DataError, match=r"decoded in blocks of 4.*rows\.rollout_blocks: any"):
        load({}, budget="b4s4")
    assert load({"rollout_blocks": "any"}, budget="b4s4").response_ids == load.response
