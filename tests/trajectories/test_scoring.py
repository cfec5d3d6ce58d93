"""Scores of rollouts: one forward per state of a batch gives what one forward per token gives."""

import numpy as np
import pytest
import torch

from t3d.models.masks import block_causal
from t3d.trajectories.record import Trajectory, problem_with
from t3d.trajectories.scoring import scores
from tests.conftest import MASK, tiny_model

SIZE = 4


def rollout(name: str, prompt: int, blocks: int, steps: int, rng) -> Trajectory:
    """A rollout of random tokens whose blocks commit SIZE / steps tokens a step, in random order."""
    length = (prompt // SIZE + blocks) * SIZE - prompt
    step_map = []
    while len(step_map) < length:
        masked = SIZE - (prompt + len(step_map)) % SIZE
        step_map += [int(place) // (SIZE // steps) + 1 for place in rng.permutation(masked)]
    ids = rng.integers(4, 97, prompt + length).tolist()
    made = Trajectory(name, ids[:prompt], ids[prompt:], step_map, [0.5] * length, "stop", 0)
    assert problem_with(made, SIZE, steps) is None
    return made


def plain_score(model, trajectory: Trajectory) -> float:
    """Token by token: build the state that the token was committed in, call the model, look the token up."""
    prompt, ids = len(trajectory.prompt_ids), trajectory.prompt_ids + trajectory.response_ids
    steps = [0] * prompt + trajectory.step_map
    found = []
    for i in range(prompt, len(ids)):
        end = (i // SIZE + 1) * SIZE
        state = [MASK if p // SIZE == i // SIZE and steps[p] >= steps[i] else ids[p] for p in range(end)]
        blocks = torch.arange(end)[None] // SIZE
        with torch.no_grad():
            logits = model(torch.tensor([state]), attention_mask=block_causal(blocks, blocks)).logits
        found.append(logits[0, i].double().log_softmax(-1)[ids[i]].item())
    return sum(found) / len(found)


@pytest.mark.parametrize("steps", [4, 2, 1])
def test_scores_equal_one_forward_per_token(steps):
    rng = np.random.default_rng(steps)
    model = tiny_model()
    # Of unequal lengths, not in their order; prompts end inside a block, and at the end of one. The last has fewer
    # tokens than steps.
    shapes = [(9, 3), (4, 1), (7, 2), (6, 1)]
    rollouts = [rollout(f"e{i}", prompt, blocks, steps, rng) for i, (prompt, blocks) in enumerate(shapes)]
    finished = []
    found = scores(
        model, rollouts, block_size=SIZE, steps=steps, mask_id=MASK, batch_size=2, on_finished=finished.append
    )
    assert found == pytest.approx([plain_score(model, each) for each in rollouts], abs=1e-5)
    assert len({round(score, 3) for score in found}) == 4
    assert finished == [2, 2]
    alone = [scores(model, [each], block_size=SIZE, steps=steps, mask_id=MASK)[0] for each in rollouts]
    assert found == pytest.approx(alone, abs=1e-5)


def test_nothing_is_scored_as_nothing():
    assert scores(tiny_model(), [], block_size=SIZE, steps=4, mask_id=MASK) == []
