"""The model as the engine runs it: one forward over blocks of tokens, against a cache of fixed size.

A block is `block size` tokens of one slot (sequence) at one place. In every layer all blocks first write their keys and
values and then attend up to their own end. So one forward may hold, side by side, blocks that are denoised, finished
blocks whose final keys are written, and the blocks of a prompt. The weights are the model's own; weights that are read
together are stored together.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from t3d.decoding import few_rows
from t3d.decoding.attention import attend
from t3d.models.device import worth_compiling

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of PyTorch comes without
    triton = None


class Network:
    """An SDAR, or an autoregressive Qwen2 or Qwen3, and the keys and values of its slots."""

    def __init__(self, model: Any, slots: int, capacity: int, block_size: int) -> None:
        """Set up a cache for `slots` sequences of `capacity` positions; one more slot takes keys and values that nobody
        needs."""
        config = model.config
        self.model, self.capacity, self.block_size = model, capacity, block_size
        self.scratch_slot = slots
        self.heads, self.kv_heads, self.width = head_shape(model)
        self.epsilon = config.rms_norm_eps
        self.layers = [_pack(layer) for layer in model.model.layers]
        device, dtype = model.device, model.lm_head.weight.dtype
        shape = (len(self.layers), (slots + 1) * capacity, 2, self.kv_heads, self.width)
        self.cache = torch.zeros(shape, dtype=dtype, device=device)
        positions = torch.arange(capacity, device=device)[None]
        turns = model.model.rotary_emb(torch.zeros(1, dtype=dtype, device=device), positions)
        self.turns = torch.cat(turns).contiguous()
        self.compiled = worth_compiling(config.hidden_size, device)
        self._project_qkv = torch.compile(_project_qkv) if self.compiled else _project_qkv
        self._swiglu = torch.compile(_swiglu) if self.compiled else _swiglu

    def forward(self, tokens: Tensor, slots: Tensor, starts: Tensor, wanted: int, pairs: int = 0) -> Tensor:
        """States of the first `wanted` blocks before the final norm, `[wanted * block size, hidden]`.

        Args:
            tokens: `[blocks, block size]`.
            slots: whose blocks they are, int64 `[blocks]`; `scratch_slot` for a block that only fills a shape.
            starts: position of each block's first token, int64 `[blocks]`.
            wanted: the blocks after these only write keys and values.
            pairs: so many of the first blocks are followed by those before them, in the same slots (`attend`).
        """
        size = self.block_size
        find = locate if few_rows.by_kernel(starts) else locate_plainly
        places, turns, owners, ends = find(slots, starts, self.turns, size, self.capacity)
        x = self.model.model.embed_tokens(tokens.flatten())
        for number, (layer, cache) in enumerate(zip(self.layers, self.cache, strict=True)):
            queries = self._queries(x, layer, cache, places, *turns)
            if number == len(self.layers) - 1:
                # Of the last layer only the wanted blocks need more than keys and values.
                if not wanted:
                    return x[:0]
                x, queries, owners, ends = x[: wanted * size], queries[: wanted * size], owners[:wanted], ends[:wanted]
                pairs = 0
            attended = attend(queries.unflatten(0, (-1, size)), cache, owners, ends, self.capacity, pairs)
            # In place: a sum that is written elsewhere would first be copied there.
            x.addmm_(attended.flatten(0, 1).flatten(1), layer.out.t())
            x.addmm_(self._swiglu(x, layer, self.epsilon), layer.down.t())
        return x

    def _queries(self, x: Tensor, layer: "_Layer", cache: Tensor, places: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Write keys and values to the cache; queries `[tokens, heads, width]`."""
        self._of_any_length(x)
        qkv = self._project_qkv(x, layer, self.epsilon)
        norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
        if few_rows.by_kernel(x):
            return few_rows.turn_and_write(qkv, norms, cos, sin, self.heads, self.epsilon, places, cache)
        queries, kv = few_rows.turn(qkv, norms, cos, sin, self.heads, self.kv_heads, self.epsilon)
        cache.index_copy_(0, places, kv)
        return queries

    def _of_any_length(self, x: Tensor) -> None:
        """One compilation for every number of blocks; a single row PyTorch compiles apart."""
        if self.compiled and len(x) > 1:
            torch._dynamo.mark_dynamic(x, 0)


def locate(
    slots: Tensor, starts: Tensor, turns: Tensor, size: int, capacity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the layers need to know about where blocks are, in one kernel.

    Args:
        slots: of each block, int64 `[blocks]`.
        starts: position of each block's first token, int64 `[blocks]`.
        turns: cosines and sines of every position, `[2, capacity, width]`.
        size: tokens of a block.
        capacity: positions of a slot.

    Returns:
        Of each token its row of the cache, int64 `[tokens]`, and its cosines and sines `[2, tokens, width]`; of each
        block its slot and how many keys it sees, int32 `[blocks]`.
    """
    blocks, width = len(slots), turns.shape[2]
    places = starts.new_empty(blocks * size)
    owners, ends = (torch.empty(blocks, dtype=torch.int32, device=slots.device) for _ in range(2))
    own = turns.new_empty(2, blocks * size, width)
    _locate_kernel[(blocks,)](
        slots, starts, turns, places, own, owners, ends, blocks * size, capacity,
        SIZE=size, SIZE_2=triton.next_power_of_2(size), WIDTH=width, WIDTH_2=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return places, own, owners, ends


def locate_plainly(
    slots: Tensor, starts: Tensor, turns: Tensor, size: int, capacity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`locate` in PyTorch."""
    positions = starts[:, None] + torch.arange(size, device=starts.device)
    places = (slots * capacity)[:, None] + positions
    return places.flatten(), turns[:, positions.flatten()], slots.int(), (starts + size).int()


def head_shape(model: Any) -> tuple[int, int, int]:
    """Attention heads, key/value heads, and their width."""
    config = model.config
    heads = config.num_attention_heads
    # Qwen2's configuration may have no head_dim.
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, config.num_key_value_heads or heads, width


class _Layer(NamedTuple):
    """Weights of a layer, in the order of their use."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


def _pack(layer: Any) -> _Layer:
    """Take a layer's weights. Where several are fused into one, the model's own become views of it."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=_fuse_linears(*projections),
        # Qwen2 has biases and no norms of queries and keys, Qwen3 the reverse.
        qkv_bias=None if projections[0].bias is None else torch.cat([each.bias for each in projections]),
        q_norm=getattr(getattr(attention, "q_norm", None), "weight", None),
        k_norm=getattr(getattr(attention, "k_norm", None), "weight", None),
        out=attention.o_proj.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=_fuse_linears(mlp.gate_proj, mlp.up_proj),
        down=mlp.down_proj.weight,
    )


def _fuse_linears(*parts: nn.Linear) -> Tensor:
    first = parts[0].weight
    whole = first.new_empty(sum(part.weight.shape[0] for part in parts), first.shape[1])
    done = 0
    for part in parts:
        view = whole[done : done + part.weight.shape[0]]
        view.copy_(part.weight)
        part.weight.data = view
        done += view.shape[0]
    return whole


def _project_qkv(x: Tensor, layer: _Layer, epsilon: float) -> Tensor:
    """`[tokens, (heads + 2 key/value heads) * width]`."""
    return linear(few_rows.norm(x, layer.input_norm, epsilon), layer.qkv, layer.qkv_bias)


def _swiglu(x: Tensor, layer: _Layer, epsilon: float) -> Tensor:
    """The gated MLP before its last matrix, `[tokens, intermediate]`."""
    gate, up = linear(few_rows.norm(x, layer.mlp_norm, epsilon), layer.gate_up).chunk(2, dim=-1)
    return silu(gate) * up


if triton is not None:

    @triton.jit
    def _locate_kernel(
        slots, starts, turns, places, own, owners, ends, rows, capacity,
        SIZE: tl.constexpr, SIZE_2: tl.constexpr, WIDTH: tl.constexpr, WIDTH_2: tl.constexpr,
    ):  # fmt: skip
        block, place, column = tl.program_id(0), tl.arange(0, SIZE_2), tl.arange(0, WIDTH_2)
        slot, start = tl.load(slots + block), tl.load(starts + block)
        tl.store(owners + block, slot.to(tl.int32))
        tl.store(ends + block, (start + SIZE).to(tl.int32))
        inside, row, position = place < SIZE, block * SIZE + place, start + place
        tl.store(places + row, slot * capacity + position, mask=inside)
        there = inside[:, None] & (column < WIDTH)[None, :]
        for kind in tl.static_range(2):
            at = ((kind * capacity + position) * WIDTH)[:, None] + column[None, :]
            to = ((kind * rows + row) * WIDTH)[:, None] + column[None, :]
            tl.store(own + to, tl.load(turns + at, mask=there), mask=there)
