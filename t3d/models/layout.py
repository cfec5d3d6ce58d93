"""The training layout: a batch of (prompt, response) pairs as one clean and one noisy copy.

Only what matters is computed: the noisy copy starts at the block that holds the first response token, the clean copy
leaves out the last block (nothing attends to it), and both are trimmed to the longest row of the batch. Pretraining and
distillation share it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t3d.models.masks import PADDING, clean_and_noisy
from t3d.models.sdar import SDARForCausalLM

_ALIGNMENT = 8
"""The noisy copy is padded to a multiple of this, which fused attention needs of its mask's rows."""


@dataclass(frozen=True)
class Layout:
    """Index tensors of one batch.

    `clean_ids [batch, C]` and `noisy_ids [batch, N]` hold x_0; `is_response [batch, N]` marks the positions that a
    state may mask (the first noisy block can begin with the prompt's tail). N is a whole number of blocks of
    `block_size`. `clean_blocks`, `noisy_blocks` are block numbers (`PADDING` outside a row), `positions [batch, C + N]`
    global ones.
    """

    clean_ids: Tensor
    noisy_ids: Tensor
    is_response: Tensor
    positions: Tensor
    clean_blocks: Tensor
    noisy_blocks: Tensor
    block_size: int

    def by_block(self, values: Tensor) -> Tensor:
        """View `[batch, N]` as `[batch, blocks, block_size]`."""
        return values.view(values.shape[0], -1, self.block_size)

    def attention_mask(self) -> Tensor:
        """Who sees whom, bool `[batch, C + N, C + N]`."""
        mask = clean_and_noisy(self.clean_blocks, self.noisy_blocks)
        # A padded query sees itself, since a softmax over nothing is not a number; nobody sees it.
        return mask | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)

    def hidden_states(self, model: SDARForCausalLM, noisy_input: Tensor) -> Tensor:
        """Final hidden states of the noisy copy, `[batch, N, hidden]`, when it holds `noisy_input [batch, N]`."""
        tokens = torch.cat([self.clean_ids, noisy_input], dim=1)
        hidden = model.hidden_states(tokens, self.attention_mask(), self.positions, use_cache=False)
        return hidden[:, self.clean_ids.shape[1] :]

    def to(self, device: str | torch.device) -> "Layout":
        """The same layout on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Layout":
        """The same layout in page-locked memory, for a data loader."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Layout":
        tensors: dict[str, Any] = {k: function(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def lay_out(rows: Sequence[np.ndarray], prompt_lengths: Sequence[int] | np.ndarray, block_size: int) -> Layout:
    """Lay out rows of token ids (prompt + response, whole blocks of `block_size` on the global grid).

    Args:
        rows: ids of each row, int, any lengths.
        prompt_lengths: how many of a row's ids are its prompt.
        block_size: tokens per block.

    Raises:
        ValueError: a row is not a whole number of blocks.
    """
    lengths = np.array([len(row) for row in rows])
    if (lengths % block_size).any():
        raise ValueError(f"prompt + response must be whole blocks of {block_size} tokens, found lengths {lengths}")
    prompts = np.asarray(prompt_lengths)
    starts = prompts // block_size * block_size
    flat = np.concatenate([*rows, np.zeros(1, dtype=np.int64)]).astype(np.int64)
    offsets = np.cumsum(lengths) - lengths

    def gather(positions: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and block numbers at `positions [row, column]`, padding from `ends` on."""
        inside = positions < ends[:, None]
        ids = flat[np.where(inside, offsets[:, None] + positions, len(flat) - 1)]
        return ids, np.where(inside, positions // block_size, PADDING)

    clean_length = lengths.max() - block_size
    grain = math.lcm(block_size, _ALIGNMENT)
    noisy_length = -(-(lengths - starts).max() // grain) * grain
    clean_positions = np.broadcast_to(np.arange(clean_length), (len(rows), clean_length))
    noisy_positions = starts[:, None] + np.arange(noisy_length)
    clean_ids, clean_blocks = gather(clean_positions, lengths - block_size)
    noisy_ids, noisy_blocks = gather(noisy_positions, lengths)
    is_response = (noisy_positions >= prompts[:, None]) & (noisy_blocks != PADDING)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))

    return Layout(
        clean_ids=tensor(clean_ids),
        noisy_ids=tensor(noisy_ids),
        is_response=tensor(is_response),
        positions=tensor(np.concatenate([clean_positions, noisy_positions], axis=1)),
        clean_blocks=tensor(clean_blocks),
        noisy_blocks=tensor(noisy_blocks),
        block_size=block_size,
    )
