"""The training layout's mask as a rule on positions, which is how FlexAttention is told who sees whom.

Attention of the training layout (`layout.py`) takes the dense mask of `masks.py`. A rule needs no tensor of pairs, and
FlexAttention skips the tiles in which it lets nobody see anybody: with 256 prompt and 1 024 response tokens 64 % of the
tiles of 128 x 128. No stage uses it: FlexAttention has no backward on a CPU, and on a GPU it has not been measured.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from t3d.models.masks import PADDING

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def clean_and_noisy_rule(clean_blocks: Tensor, noisy_blocks: Tensor) -> Rule:
    """What `masks.clean_and_noisy` says of a pair, as a `mask_mod` for `create_block_mask`.

    Args:
        clean_blocks: block numbers of the clean copy, int, `[batch, clean]`, `PADDING` for padding.
        noisy_blocks: of the noisy copy, `[batch, noisy]`.

    Returns:
        A function of (row of the batch, head, query, key), integer tensors without dimensions or of any shapes that
        broadcast; positions count through both copies. A padded query sees nothing, which FlexAttention answers with 0.
    """
    blocks = torch.cat([clean_blocks, noisy_blocks], dim=1)
    clean_length = clean_blocks.shape[1]

    def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = blocks[row, query], blocks[row, key]
        from_clean, to_clean = query < clean_length, key < clean_length
        sees_clean = to_clean & ((other < own) | (from_clean & (other == own)))
        sees_noisy = ~from_clean & ~to_clean & (other == own)
        return (sees_clean | sees_noisy) & (other != PADDING)

    return rule
