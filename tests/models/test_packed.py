"""Rows end to end under a block-sparse mask, against the padded batch under a dense one."""

import copy

import numpy as np
import pytest
import torch

from t3d.models import packed
from t3d.models.layout import lay_out
from t3d.models.sdar import BLOCK_SPARSE
from tests.conftest import MASK, tiny_model

ROWS = [np.arange(4, 4 + n) for n in (13, 90, 41, 64)]
PROMPTS = [6, 3, 40, 15]


@pytest.mark.parametrize("grid", ["global", "response"])
@pytest.mark.parametrize("block_size", [4, 8])
def test_packed_equals_padded(block_size, grid):
    """Hidden states of every token that is there, and the gradients of all weights; sequences of several tiles."""
    model = tiny_model(num_key_value_heads=2)
    other = copy.deepcopy(model)
    other.set_attn_implementation(BLOCK_SPARSE)
    assert packed.is_on(other)
    assert not packed.is_on(model)
    layout = lay_out(ROWS, PROMPTS, block_size, grid)
    assert layout.tokens > 256
    generator = torch.Generator().manual_seed(0)
    masked = layout.is_response & (torch.rand(layout.is_response.shape, generator=generator) < 0.6)
    noisy = layout.noisy_ids.masked_fill(masked, MASK)
    found = []
    for each in (model, other):
        hidden = layout.hidden_states(each, noisy)
        hidden[masked].square().mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in each.model.parameters()])
        found.append((hidden[layout.noisy_blocks >= 0], gradients))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_block_sparse_kernel_sees_what_the_dense_mask_shows():
    """Without gradients a CPU has FlexAttention, too."""
    model = tiny_model(num_key_value_heads=2)
    layout = lay_out(ROWS, PROMPTS, 8)
    padded = layout.hidden_states(model, layout.noisy_ids)
    model.set_attn_implementation(BLOCK_SPARSE)
    there = layout.noisy_blocks >= 0
    torch.testing.assert_close(layout.hidden_states(model, layout.noisy_ids)[there], padded[there], atol=1e-5, rtol=0)


def test_empty_tiles_are_skipped():
    """Four rows of 256 tokens: no tile joins two rows, and a noisy tile sees earlier clean ones and itself."""
    layout = lay_out([np.arange(256)] * 4, [8] * 4, 8)
    rows = packed.pack(layout.clean_blocks, layout.noisy_blocks, layout.tokens)
    assert len(rows.places) == 16 * 128
    assert rows.mask.sparsity() > 80


def test_what_fills_a_sequence_up_changes_nothing():
    model = tiny_model()
    model.set_attn_implementation(BLOCK_SPARSE)
    short, both = lay_out(ROWS[:1], PROMPTS[:1], 4), lay_out(ROWS[:2], PROMPTS[:2], 4)
    alone = short.hidden_states(model, short.noisy_ids)[0]
    beside = both.hidden_states(model, both.noisy_ids)[0, : len(alone)]
    there = short.noisy_blocks[0] >= 0
    torch.testing.assert_close(beside[there], alone[there], atol=1e-5, rtol=0)


def test_a_padded_state_is_zero():
    model = tiny_model()
    model.set_attn_implementation(BLOCK_SPARSE)
    layout = lay_out(ROWS, PROMPTS, 4)
    assert not layout.hidden_states(model, layout.noisy_ids)[layout.noisy_blocks < 0].any()
