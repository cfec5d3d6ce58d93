"""Training a large model on a GPU: rows end to end without padding, block-sparse attention, compiled layers.

A batch in the training layout is mostly padding and mask: of the tiles of its attention two thirds are empty. Here the
tokens of all rows lie in one sequence, and FlexAttention skips the tiles that nobody may see. `layout.py` uses it for a
model that `speed_up` has prepared; for all others, and on a CPU, it keeps the padded batch and a dense mask, which the
tests hold against this one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from t3d.models.masks import PADDING
from t3d.models.sdar import BLOCK_SPARSE, SDARForCausalLM

_TILE = 128
"""Queries and keys of one tile of a block mask; a packed sequence is a whole number of them long."""
_OPTIONS: Any = {"IS_DIVISIBLE": True}
"""Said, since the length is not known to who compiles: without it attention takes half as long again."""


def speed_up(model: SDARForCausalLM) -> None:
    """Let `model` attend block-sparsely from now on, and compile its layers."""
    model.set_attn_implementation(BLOCK_SPARSE)
    compile_layers(model)


def compile_layers(model: SDARForCausalLM) -> None:
    """Compile the layers of `model`, whatever the length: they share one compilation."""
    for layer in model.model.layers:
        layer.compile(dynamic=True)


def is_on(model: SDARForCausalLM) -> bool:
    """Whether `model` takes rows end to end."""
    return model.config._attn_implementation == BLOCK_SPARSE


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
    """The tokens of a batch that are there, end to end.

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


def pack(clean_blocks: Tensor, noisy_blocks: Tensor, count: int) -> Packed:
    """Pack a batch. Who sees whom is as in `masks.clean_and_noisy`, and no row sees another.

    Args:
        clean_blocks: block numbers of the clean copies, `[batch, clean]`, `PADDING` for padding.
        noisy_blocks: block numbers of the noisy copies, `[batch, noisy]`, `PADDING` for padding.
        count: how many of both are no padding: given, so that the GPU need not be waited for.
    """
    blocks = torch.cat([clean_blocks, noisy_blocks], dim=1)
    batch, width = blocks.shape
    size = -(-count // _TILE) * _TILE
    places = torch.nonzero_static(blocks.flatten() != PADDING, size=size, fill_value=batch * width).squeeze(1)
    # What fills the sequence up is a row of its own.
    row, noisy = places // width, places % width >= clean_blocks.shape[1]
    block = torch.cat([blocks.flatten(), blocks.new_zeros(1)])[places]
    # One number for a row and a block in it, one more range for the noisy ones: a key is seen if its number is the
    # query's own or lies between that of the row's first clean block and of the last clean one that the query may see.
    first = row * (width + 1)
    last = first + block - noisy.long()
    own = first + block + torch.where(noisy, (batch + 1) * (width + 1), 0)
    first, last, own = first.int(), last.int(), own.int()

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = own[key]
        return ((seen >= first[query]) & (seen <= last[query])) | (seen == own[query])

    mask = create_block_mask(sees, None, None, size, size, device=places.device, BLOCK_SIZE=_TILE)
    return Packed(places, mask)
