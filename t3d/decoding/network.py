"""The model as the engine runs it: one forward over blocks of tokens, against a cache of fixed size.

A block is `block size` tokens of one slot (sequence) at one place. In every layer all blocks first write their keys and
values and then attend up to their own end. So one forward may hold, side by side, blocks that are denoised, finished
blocks whose final keys are written, and the blocks of a prompt. The weights are the model's own; weights that are read
together are stored together.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from t3d.decoding import layer_kernels, products
from t3d.decoding.attention import attend
from t3d.decoding.launch import by_kernel


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
        self.turns = torch.cat(turns)

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
        places, (cos, sin), owners, ends = layer_kernels.locate(slots, starts, self.turns, size, self.capacity)
        x = self.model.model.embed_tokens(tokens.flatten())
        # Of few rows a product comes in parts, which the next kernel adds.
        few = by_kernel(x) and len(x) <= products.MOST_ROWS
        multiply, parts = products.in_parts if few else linear, None
        for number, (layer, cache) in enumerate(zip(self.layers, self.cache, strict=True)):
            states = layer_kernels.norm(x, layer.input_norm, self.epsilon, parts)
            qkv = multiply(states, layer.qkv, layer.qkv_bias)
            queries = layer_kernels.turn_and_write(
                qkv, layer.qk_norms, cos, sin, self.heads, self.epsilon, places, cache
            )
            if number == len(self.layers) - 1:
                # Of the last layer only the wanted blocks need more than keys and values.
                if not wanted:
                    return x[:0]
                x, queries, owners, ends = x[: wanted * size], queries[: wanted * size], owners[:wanted], ends[:wanted]
                pairs = 0
            attended = attend(queries.unflatten(0, (-1, size)), cache, owners, ends, self.capacity, pairs)
            attended = attended.flatten(0, 1).flatten(1)
            parts = _add(x, attended, layer.out, few)
            states = layer_kernels.norm(x, layer.mlp_norm, self.epsilon, parts)
            inner = (
                products.gated(states, layer.gate_up) if few else layer_kernels.swiglu(linear(states, layer.gate_up))
            )
            # No kernel comes that would add the last layer's parts.
            parts = _add(x, inner, layer.down, few and number < len(self.layers) - 1)
        return x


def _add(x: Tensor, states: Tensor, weight: Tensor, in_parts: bool) -> Tensor | None:
    """Add states W^T to `x`, or return the parts of it that are yet to be added."""
    if in_parts:
        return products.in_parts(states, weight)
    # In place: a sum that is written elsewhere would first be copied there.
    x.addmm_(states, weight.t())
    return None


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
    qk_norms: tuple[Tensor, Tensor] | None
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


def _pack(layer: Any) -> _Layer:
    """Take a layer's weights. Where several are fused into one, the model's own become views of it."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q_norm = getattr(getattr(attention, "q_norm", None), "weight", None)
    return _Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=_fuse_linears(*projections),
        # Qwen2 has biases and no norms of queries and keys, Qwen3 the reverse.
        qkv_bias=None if projections[0].bias is None else torch.cat([each.bias for each in projections]),
        qk_norms=None if q_norm is None else (q_norm, attention.k_norm.weight),
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
