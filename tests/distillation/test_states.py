"""Training states: what is visible, what they depend on, and that they are what the decoder saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t3d.decoding.request import Request
from t3d.distillation.examples import Example
from t3d.distillation.states import (
    block_mask,
    draw_batch,
    draw_mask,
    draw_ratios,
    dynamic_forwards,
    random_mask,
    trajectory_mask,
)
from t3d.models.layout import lay_out
from t3d.params import States
from tests.conftest import MASK, tiny_model
from tests.decoding.small import run

TRAJECTORY = States(kind="trajectory", random_tokens=0.1)


def examples(count=6, block=4):
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        prompt, length = 5 + i, (8 + i) // block * block + block * 3 - (5 + i)
        step_map = [(j % block) + 1 for j in range(length)]
        tokens = (rng.integers(4, 97, n).tolist() for n in (prompt, length))
        made.append(Example(f"e{i}", *tokens, step_map, rng.random(length).tolist()))
    return made


def draw(rows, epochs, states=TRAJECTORY, seed=0):
    return draw_batch(rows, epochs, states, steps=4, block_size=4, mask_id=MASK, vocabulary=97, seed=seed)


def test_visible_is_what_was_committed_by_the_step():
    step_map = np.array([1, 3, 2, 4, 1, 2])
    assert trajectory_mask(step_map, 4, 1.0).all()
    assert trajectory_mask(step_map, 4, 0.5).tolist() == [False, True, False, True, False, False]
    assert trajectory_mask(step_map, 4, 0.25).tolist() == [False, False, False, True, False, False]


def test_forwards_of_dynamic_remasking_by_hand():
    step_map = np.array([1, 2, 3, 4, 5, 6, 2, 1])
    block = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    # In the order of their commits: sure, sure | unsure | sure, sure | unsure, and in the other block unsure | sure.
    confidence = np.array([0.95, 0.99, 0.4, 0.97, 0.91, 0.2, 0.99, 0.5])
    forwards, counts = dynamic_forwards(step_map, confidence, block, 0.9)
    assert forwards.tolist() == [0, 0, 1, 2, 2, 3, 1, 0]
    assert counts.tolist() == [4, 2]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("per", ["sample", "block"])
def test_threshold_states_are_whole_forwards(threshold, per):
    """Each state masks the later forwards of every block, at least one of them; all of them are met."""
    states = States(kind="trajectory", threshold=threshold, mask_ratio_per=per)
    rng = np.random.default_rng(0)
    step_map = np.concatenate([rng.permutation(8) + 1 for _ in range(3)])
    confidence, block = rng.random(24), np.arange(24) // 8
    forwards, counts = dynamic_forwards(step_map, confidence, block, threshold)
    seen = set()
    for _ in range(300):
        masked = draw_mask(states, step_map, confidence.tolist(), block, 8, rng)
        for number in range(3):
            of_block = forwards[block == number]
            first = of_block[masked[block == number]].min()
            assert (masked[block == number] == (of_block >= first)).all()
            seen.add((number, int(first)))
    assert seen == {(number, first) for number in range(3) for first in range(counts[number])}


def test_threshold_states_follow_the_recorded_confidence():
    rows = examples()
    states = States(kind="trajectory", threshold=0.5)
    changed = [replace(row, confidence=[0.9] * len(row.confidence)) for row in rows]
    # A teacher that is always sure commits a block at once, so that all of it is masked.
    found = draw(changed, [0] * 6, states)
    assert torch.equal(found.masked, found.layout.is_response)
    assert not torch.equal(draw(rows, [0] * 6, states).masked, found.masked)


def test_states_do_not_depend_on_the_batch():
    rows = examples()
    together = draw(rows, [2] * len(rows))
    for i, row in enumerate(rows):
        alone = draw([row], [2])
        width = alone.noisy_input.shape[1]
        assert torch.equal(
            together.noisy_input[i, :width][alone.layout.is_response[0]], alone.noisy_input[alone.layout.is_response]
        )
        assert torch.equal(together.masked[i, :width], alone.masked[0])


def test_states_are_fresh_each_epoch_and_follow_the_seed():
    rows = examples()
    first = draw(rows, [0] * 6).noisy_input
    assert torch.equal(first, draw(rows, [0] * 6).noisy_input)
    assert not torch.equal(first, draw(rows, [1] * 6).noisy_input)
    assert not torch.equal(first, draw(rows, [0] * 6, seed=1).noisy_input)


def test_the_prompt_and_padding_are_never_masked():
    for kind in ("trajectory", "random"):
        batch = draw(examples(), [0] * 6, States(kind=kind))
        assert not (batch.masked & ~batch.layout.is_response).any()
        assert torch.equal(batch.noisy_input[~batch.masked], batch.layout.noisy_ids[~batch.masked])


def test_random_tokens_have_their_ratio_and_stay_in_the_loss():
    rows = examples(40)
    batch = draw(rows, [0] * 40, States(kind="trajectory", mask_ratios={1.0: 1.0}, random_tokens=0.3))
    assert batch.masked[batch.layout.is_response].all()
    share = (batch.noisy_input[batch.masked] != MASK).float().mean()
    assert abs(share - 0.3) < 0.06


def shares(states, steps=4, count=4000):
    drawn = draw_ratios(states, steps, count, np.random.default_rng(0))
    return {ratio: (drawn == ratio).mean() for ratio in set(drawn)}


def test_mask_ratios_follow_their_distribution():
    released = shares(States(kind="trajectory"))
    assert released[1.0] == pytest.approx(0.906, abs=0.02)
    assert released[0.75] == pytest.approx(0.091, abs=0.02)
    assert shares(States(kind="trajectory", mask_ratios={0.5: 1.0})) == {0.5: 1.0}
    uniform = shares(States(kind="trajectory", mask_ratios="uniform"), steps=8)
    assert set(uniform) == {step / 8 for step in range(1, 9)}
    assert max(uniform.values()) - min(uniform.values()) < 0.05


def test_draws_do_not_depend_on_the_order_in_which_a_file_lists_ratios():
    """They are those of the published student that lists `{1.0: 0.5, 0.5: 0.5}`."""
    published = np.random.default_rng(0).choice([1.0, 0.5], p=[0.5, 0.5], size=50)
    for given in ({1.0: 0.5, 0.5: 0.5}, {0.5: 0.5, 1.0: 0.5}):
        states = States(kind="trajectory", mask_ratios=given)
        assert (draw_ratios(states, 8, 50, np.random.default_rng(0)) == published).all()


def masks_by_block(states):
    batch = draw(examples(40), list(range(40)), states)
    for row in range(40):
        shown = batch.layout.is_response[row]
        blocks, masked = batch.layout.noisy_blocks[row][shown], batch.masked[row][shown]
        whole = [masked[blocks == block].sum().item() for block in blocks.unique() if (blocks == block).sum() == 4]
        yield whole


def test_one_ratio_per_sample_or_per_block():
    mix = {"mask_ratios": {0.5: 0.5, 1.0: 0.5}}
    assert all(len(set(counts)) == 1 for counts in masks_by_block(States(kind="trajectory", **mix)))
    per_block = list(masks_by_block(States(kind="trajectory", mask_ratio_per="block", **mix)))
    assert {count for counts in per_block for count in counts} == {2, 4}
    assert any(len(set(counts)) == 2 for counts in per_block)


def test_reversed_order_masks_what_was_committed_first():
    step_map = np.array([1, 3, 2, 4, 1, 2])
    assert trajectory_mask(step_map, 4, 0.5, "reversed").tolist() == [True, False, True, False, True, True]
    assert trajectory_mask(step_map, 4, 1.0, "reversed").all()
    ratio = {"mask_ratios": {0.25: 1.0}}
    ours = draw(examples(), [0] * 6, States(kind="trajectory", **ratio))
    released = draw(examples(), [0] * 6, States(kind="trajectory", mask_order="reversed", **ratio))
    assert set(ours.step_map[ours.masked].tolist()) == {4}
    assert set(released.step_map[released.masked].tolist()) == {1}


def test_full_states_mask_every_token_of_the_response():
    batch = draw(examples(), [0] * 6, States(kind="full"))
    assert torch.equal(batch.masked, batch.layout.is_response)


def test_a_state_and_its_complement_mask_every_token_once():
    batch = draw(examples(), [3] * 6, States(kind="random", complement=True))
    assert batch.ids[:6] == batch.ids[6:]
    assert torch.equal(batch.masked[:6] ^ batch.masked[6:], batch.layout.is_response[:6])


def test_states_drawn_once_are_the_same_in_every_epoch():
    frozen = States(kind="trajectory", random_tokens=0.3, redraw="never")
    first, later = (draw(examples(), [epoch] * 6, frozen).noisy_input for epoch in (0, 7))
    assert torch.equal(first, later)


def test_random_masks_are_uniform_in_ratio_and_never_empty():
    rng = np.random.default_rng(0)
    masks = [random_mask(20, rng) for _ in range(3000)]
    assert all(mask.any() for mask in masks)
    shares = np.array([mask.mean() for mask in masks])
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(np.quantile(shares, 0.25) - 0.25) < 0.06


@pytest.mark.parametrize("prompt_length", [5, 6, 8])
def test_states_replay_the_decoder(prompt_length, monkeypatch):
    """The states built from a step map equal, step by step, the inputs the decoder saw when it recorded it."""
    model = tiny_model()
    seen = []
    original = type(model).hidden_states

    def spy(self, input_ids, mask, positions, **kwargs):
        seen.append(input_ids[0].tolist())
        return original(self, input_ids, mask, positions, **kwargs)

    prompt = list(range(10, 10 + prompt_length))
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "hidden_states", spy)
        response = run(model, [Request(prompt, 0)], "b4s4", max_new_tokens=11)[0]
    layout = lay_out([np.array(prompt + response.ids)], [prompt_length], 4)
    columns = layout.is_response[0].numpy()
    step_map = np.array(response.step_map)
    rebuilt = []
    for step in range(4):
        noisy = layout.noisy_ids[0].numpy().copy()
        noisy[columns.nonzero()[0][trajectory_mask(step_map, 4, 1 - step / 4)]] = MASK
        rebuilt.append(noisy)
    inputs = [block for block in seen if MASK in block and len(block) == 4]
    expected = []
    for block in range((prompt_length + len(response.ids)) // 4 - prompt_length // 4):
        for step in range(4):
            state = rebuilt[step][block * 4 : block * 4 + 4].tolist()
            if MASK in state:
                expected.append(state)
    assert inputs == expected


def test_block_states_mask_a_uniform_number_of_each_block():
    """Blocks of 4, a first one of 2 (the prompt's tail) and a last one of 3: counts and places, over many draws."""
    block = np.repeat([0, 1, 2, 3], [2, 4, 4, 3])
    rng = np.random.default_rng(0)
    masks = np.array([block_mask(block, rng) for _ in range(4000)])
    for number, size in enumerate([2, 4, 4, 3]):
        inside = masks[:, block == number]
        counts = np.bincount(inside.sum(axis=1), minlength=size + 1) / len(masks)
        assert counts[0] == 0
        assert counts[1:] == pytest.approx([1 / size] * size, abs=0.03)
        assert inside.mean(axis=0) == pytest.approx([(size + 1) / (2 * size)] * size, abs=0.03)
