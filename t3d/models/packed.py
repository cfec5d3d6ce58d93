"""Training a large model on a GPU: rows end to end without padding, block-sparse attention, compiled layers.

A batch in the training layout is mostly padding and mask: of the tiles of its attention two thirds are empty. Packed,
the tokens of all rows lie in one sequence, and FlexAttention skips the tiles that no token may see. `layout.py` packs
for a model that `speed_up` has prepared; all others, and CPUs, take the padded batch and a dense mask, which the tests
hold against this one.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from t3d.distributed import collectives
from t3d.models.device import send
from t3d.models.masks import PADDING
from t3d.models.sdar import BLOCK_SPARSE, SDARForCausalLM

_TILE = 64
"""Queries and keys of one tile of a block mask; a packed sequence is a whole number of them long."""
_OPTIONS: Any = {
    # Given here, since the compiler does not know the length: without it attention takes 1.5 times as long.
    "IS_DIVISIBLE": True,
    "fwd_BLOCK_M": _TILE,
    "fwd_BLOCK_N": _TILE,
    "bwd_BLOCK_M1": _TILE,
    "bwd_BLOCK_N1": _TILE,
    "bwd_BLOCK_M2": _TILE,
    "bwd_BLOCK_N2": _TILE,
    "num_warps": 4,
}


@cache
def _use_our_tiles() -> None:
    """Let PyTorch choose our tiles for a backward.

    It refuses one whose own tiles would not fit the mask's, before it looks at `_OPTIONS`.
    """
    from torch._inductor.choices import InductorChoices  # takes 0.5 s, and no CPU needs it

    of_pytorch = InductorChoices.get_flex_attention_bwd_configs
    tiles = dict.fromkeys(("block_m1", "block_n1", "block_m2", "block_n2"), _TILE)

    def in_our_tiles(choices: InductorChoices, *given: Any, **named: Any) -> list[Any]:
        return [replace(config, **tiles) for config in of_pytorch(choices, *given, **named)]

    # In the class itself. With several processes a backward is compiled in a thread of autograd's, where neither
    # `V.set_choices_handler` of this thread holds nor, since PyTorch 2.12, `config.inductor_choices_class`.
    InductorChoices.get_flex_attention_bwd_configs = in_our_tiles


def speed_up(model: SDARForCausalLM) -> None:
    """Let `model` take packed rows from now on, and compile its layers."""
    model.set_attn_implementation(BLOCK_SPARSE)
    _use_our_tiles()
    compile_layers(model)


def compile_layers(model: Qwen3ForCausalLM) -> None:
    """Compile the layers of `model`; all layers and lengths share one compilation.

    The weights of a model that is spread over processes are no constants to the compiler. It must find out by itself
    which sizes change, which takes a second compilation.
    """
    dynamic = True if collectives.world_size() == 1 else None
    for layer in model.model.layers:
        layer.compile(dynamic=dynamic)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BlockMask,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' layers call it: `[batch, heads, length, width]` to `[batch, length, heads, width]`."""
    # Rotary embeddings are in float32 under autocast, and with them queries and keys.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if query.device.type == "cpu" and torch.is_grad_enabled():
        # FlexAttention has no backward there.
        dense = create_mask(attention_mask.mask_mod, 1, 1, query.shape[2], key.shape[2], device=query.device)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=dense, scale=scaling, enable_gqa=True)
    else:
        attended = flex_attention(
            query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True, kernel_options=_OPTIONS
        )
    return attended.transpose(1, 2), None


AttentionInterface.register(BLOCK_SPARSE, _attend)


@dataclass(frozen=True)
class Packed:
    """The tokens of a batch without its padding, end to end.

    `places [length]`: of each token its place among the `batch * width` of the padded batch; where the sequence is
    filled up, the number after the last. `mask`: who sees whom.
    """

    places: Tensor
    mask: BlockMask

    def take(self, values: Tensor) -> Tensor:
        """Values of the padded batch, `[batch, width]`, as a batch of one sequence, `[1, length]`."""
        return torch.cat([values.flatten(), values.new_zeros(1)])[self.places][None]

    def put_back(self, states: Tensor, shape: torch.Size) -> Tensor:
        """States `[1, length, hidden]` where they come from, `[batch, width, hidden]`, 0 in the padding."""
        batch, width = shape
        padded = states.new_zeros(batch * width + 1, states.shape[2]).index_copy(0, self.places, states[0])
        return padded[:-1].view(batch, width, -1)


def pack(clean_blocks: np.ndarray, noisy_blocks: np.ndarray, device: str | torch.device) -> Packed:
    """Pack a batch for `device`. Who sees whom is as in `masks.clean_and_noisy`, and no row sees another.

    Args:
        clean_blocks: block numbers of the clean copies, int `[batch, clean]`, `PADDING` for padding.
        noisy_blocks: block numbers of the noisy copies, int `[batch, noisy]`, `PADDING` for padding.
        device: where the tensors go.
    """
    blocks = np.concatenate([clean_blocks, noisy_blocks], axis=1)
    batch, width = blocks.shape
    places = np.flatnonzero(blocks != PADDING)
    count = len(places)
    length = -(-count // _TILE) * _TILE
    row, noisy, block = places // width, places % width >= clean_blocks.shape[1], blocks.ravel()[places]
    # Ascending in a packed sequence, so a query sees two ranges of keys: in the clean copy from the row's first token
    # to the end of the last block that it may see, and in the noisy copy its own block.
    span = blocks.max() + 1
    order = (2 * row + noisy) * span + block
    ranges = np.zeros((4, length), dtype=np.int32)
    ranges[0, :count] = np.searchsorted(order, 2 * row * span)
    ranges[1, :count] = np.searchsorted(order, 2 * row * span + block - noisy, side="right")
    ranges[2, :count][noisy] = np.searchsorted(order, order[noisy])
    ranges[3, :count][noisy] = np.searchsorted(order, order[noisy], side="right")
    # What fills the sequence up sees itself.
    ranges[0, count:], ranges[1, count:] = count, length
    first, end, own_first, own_end = send(torch.from_numpy(ranges), device)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        clean = (key >= first[query]) & (key < end[query])
        return clean | ((key >= own_first[query]) & (key < own_end[query]))

    partial, full = _tiles(ranges)
    tables = *_listed(partial, device), *_listed(full, device)
    mask = BlockMask.from_kv_blocks(*tables, _TILE, sees, seq_lengths=(length, length), compute_q_blocks=False)
    # The backward goes by keys. PyTorch would make these on the device, with some 60 small kernels.
    mask.q_num_blocks, mask.q_indices = _listed(partial.T, device)
    mask.full_q_num_blocks, mask.full_q_indices = _listed(full.T, device)
    filled = np.full(length, batch * width)
    filled[:count] = places
    return Packed(send(torch.from_numpy(filled), device), mask)


def _tiles(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles of keys a tile of queries sees in part, and which whole, bool `[tiles, tiles]`."""
    tiles = ranges.shape[1] // _TILE
    # How many queries see something of a tile, and how many see all of it: +1 where a range begins, -1 after its end.
    some, whole = np.zeros((2, tiles, tiles + 1), dtype=np.int64)
    for first, end in (ranges[:2], ranges[2:]):
        for counts, begin, stop in (
            (some, first // _TILE, -(-end // _TILE)),
            (whole, -(-first // _TILE), end // _TILE),
        ):
            there = np.flatnonzero((end > first) & (stop > begin))
            row = there // _TILE * (tiles + 1)
            for columns, change in ((begin, 1), (stop, -1)):
                counts += change * np.bincount(row + columns[there], minlength=counts.size).reshape(counts.shape)
    full = whole.cumsum(axis=1)[:, :-1] == _TILE
    return (some.cumsum(axis=1)[:, :-1] > 0) & ~full, full


def _listed(tiles: np.ndarray, device: str | torch.device) -> tuple[Tensor, Tensor]:
    """Of each row how many tiles there are, int32 `[1, 1, rows]`, and which, those first, `[1, 1, rows, columns]`."""
    counts = tiles.sum(axis=1, dtype=np.int32)
    row, column = tiles.nonzero()
    which = np.zeros(tiles.shape, dtype=np.int32)
    which[row, np.arange(len(row)) - (counts.cumsum() - counts)[row]] = column
    first, second = (send(torch.from_numpy(each[None, None]), device) for each in (counts, which))
    return first, second
