"""The factorisation error: on joint distributions whose total correlation is known, and against plain forwards."""

import math

import numpy as np
import pytest
import torch

from t3d.distillation.examples import Example
from t3d.errors import DataError
from t3d.evaluation.factorisation import Chain, chains, total_correlation
from t3d.models.masks import block_causal
from tests.conftest import MASK, tiny_model


def entropy(p):
    return -sum(q * math.log(q) for q in (p, 1 - p) if q)


def equal_bits(agree: float, count: int, rng) -> list[Chain]:
    """Two fair bits that agree with probability `agree`, drawn in random order; their TC is log 2 - H(agree)."""
    made = []
    for _ in range(count):
        same = rng.random() < agree
        first = rng.integers(2)
        log_p = np.full((2, 2), math.log(0.5))
        log_p[1] = np.nan
        log_p[1, 1 - first] = math.log(agree if same else 1 - agree)
        step_map = np.array([1, 2]) if first == 0 else np.array([2, 1])
        made.append(Chain(log_p, step_map, np.zeros(2, dtype=int)))
    return made


@pytest.mark.parametrize("agree", [0.5, 0.8, 0.99])
def test_two_bits_have_the_total_correlation_of_the_closed_form(agree):
    rollouts = equal_bits(agree, 20_000, np.random.default_rng(0))
    known = math.log(2) - entropy(agree)
    value, low, high = total_correlation(rollouts, 2)
    assert value == pytest.approx(known, abs=0.02)
    assert low - 1e-9 <= known <= high + 1e-9
    assert total_correlation(rollouts, 1) == (0.0, 0.0, 0.0)


def test_a_repeated_token_costs_its_entropy_each_time_it_is_drawn_again():
    """Eight copies of one of four symbols: drawn d at a time, a step ignores what d - 1 of them would have known."""
    log_p = np.full((8, 8), 0.0)
    log_p[0] = math.log(0.25)
    for step in range(8):
        log_p[step, :step] = np.nan
    copies = [Chain(log_p, np.arange(1, 9), np.zeros(8, dtype=int))] * 3
    assert total_correlation(copies, 1)[0] == 0.0
    assert total_correlation(copies, 8)[0] == pytest.approx(7 * math.log(4))
    # Of the two steps of four only the first meets an unknown symbol.
    assert total_correlation(copies, 4)[0] == pytest.approx(3 * math.log(4) / 2)


def rollout(name, prompt, blocks, rng):
    length = (prompt // 4 + blocks) * 4 - prompt
    steps = []
    for block in range(blocks):
        size = min(4, length - len(steps)) if block else 4 - prompt % 4
        steps += [int(s) for s in rng.permutation(size) + 1]
    return Example(name, rng.integers(4, 97, prompt).tolist(), rng.integers(4, 97, length).tolist(), steps)


def test_chains_equal_one_forward_per_state():
    rng = np.random.default_rng(1)
    model = tiny_model()
    examples = [rollout(f"e{i}", 3 + i, 2 + i % 2, rng) for i in range(4)]
    found = chains(model, examples, steps=4, block_size=4, mask_id=MASK, batch_size=3)
    for example, chain in zip(examples, found, strict=True):
        ids, prompt = torch.from_numpy(example.row), len(example.prompt_ids)
        blocks = torch.arange(len(ids))[None] // 4
        for block in set(chain.blocks.tolist()):
            for step in range(4):
                inside = [i for i in range(prompt, len(ids)) if i // 4 == block]
                hidden = [i for i in inside if example.step_map[i - prompt] > step]
                state = ids[: block * 4 + 4].clone()
                state[hidden] = MASK
                seen = blocks[:, : len(state)]
                with torch.no_grad():
                    scores = model(state[None], attention_mask=block_causal(seen, seen)).logits[0].log_softmax(-1)
                for i in inside:
                    value = chain.log_p[step, i - prompt]
                    if i in hidden:
                        assert value == pytest.approx(scores[i, ids[i]].item(), abs=2e-5)
                    else:
                        assert np.isnan(value)


def test_what_is_no_chain_is_refused():
    example = Example("e", [5, 6, 7, 8], [9, 10, 11, 12], [1, 1, 2, 2])
    with pytest.raises(DataError, match="e commits several tokens in one step"):
        chains(tiny_model(), [example], steps=4, block_size=4, mask_id=MASK)
    with pytest.raises(DataError, match="e has no step map"):
        chains(tiny_model(), [Example("e", [5, 6, 7, 8], [9, 10, 11, 12])], steps=4, block_size=4, mask_id=MASK)
    with pytest.raises(DataError, match="zero rollouts"):
        total_correlation([], 2)
