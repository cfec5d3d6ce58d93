"""Who may look at whom: block-causal attention over one global block grid.

The grid starts at position 0 of the prompt; token `p` is in block `p // block_size`. All masks are boolean, True where
a query may attend to a key, shape `[batch, queries, keys]`. `sdar.SDARForCausalLM` turns them into what its attention
implementation understands.
"""

import torch
from torch import Tensor

PADDING = -1
"""Block number of a padded key: nobody attends to it."""


def block_causal(query_blocks: Tensor, key_blocks: Tensor) -> Tensor:
    """A token sees its own block and all earlier ones (method.md section 1).

    Args:
        query_blocks: block number of each query, int, `[batch, queries]`.
        key_blocks: block number of each key, int, `[batch, keys]`, `PADDING` where there is none.
    """
    visible = key_blocks[:, None, :] <= query_blocks[:, :, None]
    return visible & (key_blocks != PADDING)[:, None, :]


def clean_and_noisy(clean_blocks: Tensor, noisy_blocks: Tensor) -> Tensor:
    """The training layout: a clean copy x_0 followed by a noisy copy x_t, all blocks of x_t in one forward.

    A clean token sees clean tokens block-causally. A noisy token of block b sees clean blocks before b and the noisy
    tokens of b, which is exactly what the decoder sees: a clean prefix in the cache and one noisy block.

    Args:
        clean_blocks: `[batch, clean]`, `PADDING` for padding.
        noisy_blocks: `[batch, noisy]`, `PADDING` for padding.

    Returns:
        `[batch, clean + noisy, clean + noisy]`.
    """
    clean_length = clean_blocks.shape[1]
    query = torch.cat([clean_blocks, noisy_blocks], dim=1)[:, :, None]
    from_clean = torch.arange(query.shape[1], device=query.device)[None, :, None] < clean_length
    to_clean = clean_blocks[:, None, :]
    to_noisy = noisy_blocks[:, None, :]
    sees_clean = torch.where(from_clean, to_clean <= query, to_clean < query) & (to_clean != PADDING)
    sees_noisy = ~from_clean & (to_noisy == query) & (to_noisy != PADDING)
    return torch.cat([sees_clean, sees_noisy], dim=2)
