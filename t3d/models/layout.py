"""The training layout: a batch of (prompt, response) pairs as one clean and one noisy copy.

Only what matters is computed: the noisy copy starts at the block that holds the first response token, the clean copy
leaves out the last block (nothing attends to it), and both are trimmed to the longest row of the batch. Pretraining and
distillation share it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t3d.models.device import send
from t3d.models.masks import PADDING, clean_and_noisy
from t3d.models.packed import Packed, pack
from t3d.models.sdar import SDARForCausalLM

_ALIGNMENT = 8
"""The noisy copy is padded to a multiple of this, which fused attention needs of its mask's rows."""
_TOGETHER = 16
"""Rows that an autoregressive model reads together."""


@dataclass(frozen=True)
class Layout:
    """Index tensors of one batch.

    `clean_ids [batch, C]` and `noisy_ids [batch, N]` hold x_0; `is_response [batch, N]` marks the positions that a
    state may mask (the first noisy block can begin with the prompt's tail). N is a whole number of blocks of
    `block_size`. `clean_blocks`, `noisy_blocks` are block numbers (`PADDING` outside a row), `positions [batch, C + N]`
    global ones; `lengths` are the rows'. `packed` is set for a model that takes its rows end to end.
    """

    clean_ids: Tensor
    noisy_ids: Tensor
    is_response: Tensor
    positions: Tensor
    clean_blocks: Tensor
    noisy_blocks: Tensor
    block_size: int
    lengths: tuple[int, ...]
    packed: Packed | None = None

    def by_block(self, values: Tensor) -> Tensor:
        """View `[batch, N]` as `[batch, blocks, block_size]`."""
        return values.view(values.shape[0], -1, self.block_size)

    def at_responses(self, values: Iterable[Sequence[int]]) -> Tensor:
        """Numbers of each row's response tokens in their places, int64 `[batch, N]`, 0 elsewhere."""
        placed = torch.zeros_like(self.noisy_ids)
        placed[self.is_response] = torch.tensor([*chain.from_iterable(values)], device=placed.device)
        return placed

    def attention_mask(self) -> Tensor:
        """Who sees whom, bool `[batch, C + N, C + N]`."""
        mask = clean_and_noisy(self.clean_blocks, self.noisy_blocks)
        # A padded query sees itself, since softmax over an empty row is NaN; no other token sees it.
        return mask | torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)

    def hidden_states(self, model: SDARForCausalLM, noisy_input: Tensor) -> Tensor:
        """Final hidden states of the noisy copy, `[batch, N, hidden]`, when it holds `noisy_input [batch, N]`."""
        tokens, positions = torch.cat([self.clean_ids, noisy_input], dim=1), self.positions
        if self.packed is not None:
            rows = self.packed
            hidden = model.hidden_states(rows.take(tokens), rows.mask, rows.take(positions), use_cache=False)
            hidden = rows.put_back(hidden, tokens.shape)
        else:
            hidden = model.hidden_states(tokens, self.attention_mask(), positions, use_cache=False)
        return hidden[:, self.clean_ids.shape[1] :]

    def states_before(self, causal: Any) -> Tensor:
        """Final hidden states of an autoregressive model at the token before each of the noisy copy's.

        `[batch, N, hidden]`; it reads x_0, each token after all those before it.
        """
        clean = self.clean_ids.shape[1]
        there = torch.cat([self.clean_blocks, self.noisy_blocks], dim=1) != PADDING
        # Positions that both copies hold have the same token. No token of a row sees what comes after its end.
        width = max(self.lengths) + 1
        places = torch.where(there, self.positions, width - 1)
        rows = torch.zeros(len(places), width, dtype=torch.long, device=places.device)
        rows.scatter_(1, places, torch.cat([self.clean_ids, self.noisy_ids], dim=1))
        # Rows of like lengths are read together: of 64, the longest is more than twice as long as the mean.
        order = sorted(range(len(rows)), key=self.lengths.__getitem__)
        parts = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
        read: list[Tensor] = []
        for part in parts:
            end = self.lengths[part[-1]]
            some = send(torch.tensor(part), rows.device)
            states = causal.model(rows[some, :end], use_cache=False).last_hidden_state
            read.append(torch.nn.functional.pad(states, (0, 0, 0, width - 1 - end)))
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        hidden = torch.cat(read)[send(back, rows.device)]
        # A padded position is read nowhere.
        before = (self.positions[:, clean:] - 1).clamp(min=0, max=width - 2)
        return hidden.gather(1, before[:, :, None].expand(-1, -1, hidden.shape[2]))

    def to(self, device: str | torch.device, packed: bool = False) -> "Layout":
        """The same layout on `device`, from a CPU; `packed` for a model that `packed.speed_up` has prepared."""
        moved: dict[str, Any] = {name: send(v, device) for name, v in vars(self).items() if isinstance(v, Tensor)}
        rows = pack(self.clean_blocks.numpy(), self.noisy_blocks.numpy(), device) if packed else None
        return replace(self, **moved, packed=rows)


def lay_out(
    rows: Sequence[np.ndarray],
    prompt_lengths: Sequence[int] | np.ndarray,
    block_size: int,
    grid: str = "global",
    left_out: Sequence[int] | None = None,
) -> Layout:
    """Lay out rows of token ids (prompt + response).

    Args:
        rows: ids of each row, int, any lengths; a last block that is not whole is shorter for the model, too.
        prompt_lengths: how many of a row's ids are its prompt.
        block_size: tokens per block.
        grid: `global`: blocks are counted from position 0 of the prompt, as in decoding; `response`: a block begins
            with the first token of the response (released behaviour).
        left_out: how many tokens of its prompt each row lacks; on the global grid blocks are counted as if they were
            there, so that the response has the blocks it was decoded in.
    """
    lengths = np.array([len(row) for row in rows])
    ids = torch.from_numpy(np.concatenate(rows).astype(np.int64))
    offsets, prompts = np.cumsum(lengths) - lengths, np.asarray(prompt_lengths)
    return lay_out_stored(ids, offsets, lengths, prompts, block_size, grid, left_out)


def lay_out_stored(
    ids: Tensor,
    offsets: np.ndarray,
    lengths: np.ndarray,
    prompt_lengths: np.ndarray,
    block_size: int,
    grid: str = "global",
    left_out: Sequence[int] | None = None,
) -> Layout:
    """Lay out rows that lie end to end in one tensor, on that tensor's device: a corpus on a GPU is never copied back.

    Args:
        ids: all rows, int, `[total]`.
        offsets: where each row of the batch begins in `ids`.
        lengths: ids of each row.
        prompt_lengths: how many of a row's ids are its prompt.
        block_size: tokens per block.
        grid: see `lay_out`.
        left_out: see `lay_out`.
    """
    device = ids.device
    # The grid's origin lies `shift` positions before the row.
    before = -prompt_lengths if grid == "response" else np.zeros_like(prompt_lengths) + (left_out or 0)
    shifts = before % block_size
    starts = (prompt_lengths + shifts) // block_size * block_size - shifts
    last_blocks = (lengths + shifts - 1) // block_size * block_size - shifts
    grain = math.lcm(block_size, _ALIGNMENT)
    noisy_length = int(-(-(lengths - starts).max() // grain) * grain)
    numbers = torch.from_numpy(np.stack([offsets, lengths, prompt_lengths, shifts, starts, last_blocks])).to(device)
    offset, length, prompt, shift, start, last_block = numbers[:, :, None]

    def gather(positions: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and block numbers at `positions [row, column]`, padding from `end` on."""
        inside = (positions >= 0) & (positions < end)
        found = ids[torch.where(inside, offset + positions, 0)].long()
        return torch.where(inside, found, 0), torch.where(inside, (positions + shift) // block_size, PADDING)

    clean_positions = torch.arange(int(last_blocks.max()), device=device).expand(len(lengths), -1)
    noisy_positions = start + torch.arange(noisy_length, device=device)
    clean_ids, clean_blocks = gather(clean_positions, last_block)
    noisy_ids, noisy_blocks = gather(noisy_positions, length)
    return Layout(
        clean_ids=clean_ids,
        noisy_ids=noisy_ids,
        is_response=(noisy_positions >= prompt) & (noisy_blocks != PADDING),
        # A row shorter than its shift and a block begins inside of its first noisy block.
        positions=torch.cat([clean_positions, noisy_positions], dim=1).clamp(min=0),
        clean_blocks=clean_blocks,
        noisy_blocks=noisy_blocks,
        block_size=block_size,
        lengths=tuple(lengths.tolist()),
    )
