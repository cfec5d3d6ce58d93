"""Attention of blocks over the cached prefix: each block of queries sees the keys of its slot up to the block's end.

A cache row is one position of one slot, `[slots * capacity, 2, key/value heads, head width]` for keys and values. On a
GPU a Triton kernel reads only the filled part of each slot. Elsewhere `attend_plainly` does the same in PyTorch; it is
the reference in the tests.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

_KEYS = 64
"""Keys of one tile."""


def attend(queries: Tensor, cache: Tensor, slots: Tensor, ends: Tensor, capacity: int) -> Tensor:
    """Attention of every block.

    Args:
        queries: `[blocks, block size, heads, head width]`.
        cache: keys and values, `[slots * capacity, 2, key/value heads, head width]`, those of the blocks included.
        slots: whose prefix each block continues, int32 `[blocks]`.
        ends: how many keys each block sees, int32 `[blocks]`.
        capacity: positions of a slot.

    Returns:
        `[blocks, block size, heads, head width]`.
    """
    if triton is None or queries.device.type == "cpu":
        return attend_plainly(queries, cache, slots, ends, capacity)
    return _attend_by_kernel(queries, cache, slots, ends, capacity)


def attend_plainly(queries: Tensor, cache: Tensor, slots: Tensor, ends: Tensor, capacity: int) -> Tensor:
    """`attend` in PyTorch: gathers each block's prefix."""
    longest = int(ends.max())
    rows = cache.view(-1, capacity, *cache.shape[1:])[slots.long(), :longest]
    keys, values = rows.unbind(dim=2)
    mask = torch.arange(longest, device=queries.device) < ends[:, None]
    attended = scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask[:, None, None, :],
        enable_gqa=True,
    )
    return attended.transpose(1, 2)


def splits_for(blocks: int, heads: int, capacity: int, device: torch.device) -> int:
    """Into how many parts a block's keys are split, so that few blocks still fill the GPU."""
    if device.type != "cuda":
        return 1
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = max(1, processors // (blocks * heads))
    return min(wanted, max(1, capacity // (2 * _KEYS)), 16)


def _attend_by_kernel(queries: Tensor, cache: Tensor, slots: Tensor, ends: Tensor, capacity: int) -> Tensor:
    blocks, size, heads, width = queries.shape
    kv_heads = cache.shape[2]
    group = heads // kv_heads
    # The rows of a tile are the block's queries of all heads that share a key head; a tile has at least 16 of them.
    tile = max(16, triton.next_power_of_2(size * group))
    splits = splits_for(blocks, kv_heads, capacity, queries.device)
    out = torch.empty_like(queries)
    if splits > 1:
        part = torch.empty(blocks, kv_heads, splits, tile, width, dtype=torch.float32, device=queries.device)
        scale = torch.empty(blocks, kv_heads, splits, tile, 2, dtype=torch.float32, device=queries.device)
    else:
        part, scale = out, out
    exact = "ieee" if queries.dtype == torch.float32 else "tf32"
    shape = {"SIZE": size, "GROUP": group, "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width, "TILE": tile}
    _attend_kernel[(blocks, kv_heads, splits)](
        queries, cache, slots, ends, out, part, scale, capacity, 1 / math.sqrt(width) * math.log2(math.e),
        **shape, WIDTH_2=triton.next_power_of_2(width), SPLITS=splits, KEYS=_KEYS, EXACT=exact, num_warps=4,
    )  # fmt: skip
    if splits > 1:
        _combine_kernel[(blocks, kv_heads)](
            part, scale, out, **shape, WIDTH_2=triton.next_power_of_2(width), SPLITS=splits, num_warps=4
        )
    return out


if triton is not None:

    @triton.jit
    def _attend_kernel(
        queries, cache, slots, ends, out, part, scale_out, capacity, scale,
        SIZE: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr,
        WIDTH_2: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, KEYS: tl.constexpr, EXACT: tl.constexpr,
    ):  # fmt: skip
        block, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        slot, end = tl.load(slots + block).to(tl.int64), tl.load(ends + block)
        rows, columns = tl.arange(0, TILE), tl.arange(0, WIDTH_2)
        # Row r is query r // GROUP of head `head * GROUP + r % GROUP`.
        there = (rows < SIZE * GROUP)[:, None] & (columns < WIDTH)[None, :]
        at = (block * SIZE + rows // GROUP) * HEADS + head * GROUP + rows % GROUP
        q = tl.load(queries + at[:, None] * WIDTH + columns[None, :], mask=there, other=0.0)
        highest = tl.full([TILE], float("-inf"), tl.float32)
        total = tl.zeros([TILE], tl.float32)
        sums = tl.zeros([TILE, WIDTH_2], tl.float32)
        share = tl.cdiv(tl.cdiv(end, KEYS), SPLITS) * KEYS
        for first in range(split * share, tl.minimum(end, split * share + share), KEYS):
            keys = first + tl.arange(0, KEYS)
            base = ((slot * capacity + keys) * 2 * KV_HEADS + head) * WIDTH
            seen = keys < end
            wide = seen[:, None] & (columns < WIDTH)[None, :]
            k = tl.load(cache + base[:, None] + columns[None, :], mask=wide, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision=EXACT) * scale
            scores = tl.where(seen[None, :], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(highest - higher)
            v = tl.load(cache + base[:, None] + KV_HEADS * WIDTH + columns[None, :], mask=wide, other=0.0)
            total = total * shrink + tl.sum(weights, 1)
            sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=EXACT)
            highest = higher
        if SPLITS == 1:
            tl.store(out + at[:, None] * WIDTH + columns[None, :], sums / total[:, None], mask=there)
        else:
            cell = ((block * KV_HEADS + head) * SPLITS + split) * TILE + rows
            tl.store(part + cell[:, None] * WIDTH + columns[None, :], sums, mask=there)
            tl.store(scale_out + cell * 2, highest)
            tl.store(scale_out + cell * 2 + 1, total)

    @triton.jit
    def _combine_kernel(
        part, scales, out,
        SIZE: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr,
        WIDTH_2: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr,
    ):  # fmt: skip
        block, head = tl.program_id(0), tl.program_id(1)
        rows, columns = tl.arange(0, TILE), tl.arange(0, WIDTH_2)
        there = (rows < SIZE * GROUP)[:, None] & (columns < WIDTH)[None, :]
        highest = tl.full([TILE], float("-inf"), tl.float32)
        total = tl.zeros([TILE], tl.float32)
        sums = tl.zeros([TILE, WIDTH_2], tl.float32)
        for split in range(SPLITS):
            cell = ((block * KV_HEADS + head) * SPLITS + split) * TILE + rows
            high = tl.load(scales + cell * 2)
            higher = tl.maximum(highest, high)
            # A part without keys has -inf and a total of 0: it adds nothing.
            grow = tl.where(high == float("-inf"), 0.0, tl.exp2(high - higher))
            shrink = tl.where(highest == float("-inf"), 0.0, tl.exp2(highest - higher))
            some = tl.load(part + cell[:, None] * WIDTH + columns[None, :], mask=there, other=0.0)
            sums = sums * shrink[:, None] + some * grow[:, None]
            total = total * shrink + tl.load(scales + cell * 2 + 1) * grow
            highest = higher
        at = (block * SIZE + rows // GROUP) * HEADS + head * GROUP + rows % GROUP
        tl.store(out + at[:, None] * WIDTH + columns[None, :], sums / total[:, None], mask=there)
