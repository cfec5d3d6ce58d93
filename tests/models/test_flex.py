"""The rule for FlexAttention against the dense mask."""

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask

from t3d.models.flex import clean_and_noisy_rule
from t3d.models.layout import lay_out
from t3d.models.masks import clean_and_noisy


@pytest.mark.parametrize("grid", ["global", "response"])
def test_the_rule_says_what_the_mask_says(grid):
    rng = np.random.default_rng(0)
    prompts = [3, 8, 13, 1]
    rows = [rng.integers(0, 97, prompt + length) for prompt, length in zip(prompts, [21, 5, 40, 2], strict=True)]
    layout = lay_out(rows, prompts, 4, grid)
    dense = clean_and_noisy(layout.clean_blocks, layout.noisy_blocks)
    rule = clean_and_noisy_rule(layout.clean_blocks, layout.noisy_blocks)
    length = dense.shape[1]
    assert torch.equal(create_mask(rule, len(rows), 1, length, length, device="cpu")[:, 0], dense)


def test_most_tiles_are_skipped():
    """The share that the module names."""
    layout = lay_out([np.zeros(1280, dtype=int)], [256], 8)
    rule = clean_and_noisy_rule(layout.clean_blocks, layout.noisy_blocks)
    length = layout.positions.shape[1]
    mask = create_block_mask(rule, 1, 1, length, length, device="cpu")
    assert mask.sparsity() == pytest.approx(64, abs=1)
