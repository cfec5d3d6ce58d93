"""Attention of blocks over the cached prefix: each block of queries sees the keys of its slot up to the block's end.

A cache row is one position of one slot, `[slots * capacity, 2, key/value heads, head width]` for keys and values. On a
GPU a Triton kernel reads only the filled part of each slot. Elsewhere `attend_plainly` does the same in PyTorch; it is
the reference in the tests.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from t3d.decoding.launch import early

try:
    import triton
    import triton.language as tl

    from t3d.decoding.launch import begin
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

_KEYS = 64
"""Keys of one tile."""
_MOST_ROWS = 32
"""Queries of a tile that holds two blocks; larger tiles were not measured."""


def attend(
    queries: Tensor,
    cache: Tensor,
    slots: Tensor,
    ends: Tensor,
    capacity: int,
    pairs: int = 0,
) -> Tensor:
    """Attention of every block.

    Args:
        queries: `[blocks, block size, heads, head width]`; one head after the other, positions at any distance.
        cache: keys and values, `[slots * capacity, 2, key/value heads, head width]`, those of the blocks included.
        slots: whose prefix each block continues, int32 `[blocks]`.
        ends: how many keys each block sees, int32 `[blocks]`.
        capacity: positions of a slot.
        pairs: so many blocks at the beginning are followed by as many of the same slots, one by one, that see fewer
            keys (or are needed by nobody): the kernel reads the prefix of both once. 512 pairs with 388 keys, 32 heads,
            took 0.25 ms on an H200, and 0.44 one by one.

    Returns:
        `[blocks, block size, heads, head width]`.
    """
    if triton is None or queries.device.type == "cpu":
        return attend_plainly(queries, cache, slots, ends, capacity)
    return attend_by_kernel(queries, cache, slots, ends, capacity, pairs)


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
    return min(wanted, max(1, capacity // _KEYS), 16)


def attend_by_kernel(
    queries: Tensor,
    cache: Tensor,
    slots: Tensor,
    ends: Tensor,
    capacity: int,
    pairs: int = 0,
    splits: int | None = None,
) -> Tensor:
    """`attend` in Triton; `splits` as `splits_for` gives them unless they are given."""
    blocks, size, heads, width = queries.shape
    kv_heads = cache.shape[2]
    group = heads // kv_heads
    if 2 * size * group > _MOST_ROWS:
        pairs = 0
    # The rows of a tile are the queries of all heads that share a key head; a tile has at least 16 of them.
    tile = max(16, triton.next_power_of_2((2 if pairs else 1) * size * group))
    programs = blocks - pairs
    splits = splits or splits_for(programs, kv_heads, capacity, queries.device)
    out = queries.new_empty(queries.shape)
    if splits > 1:
        part = torch.empty(programs, kv_heads, splits, tile, width, dtype=torch.float32, device=queries.device)
        scale = torch.empty(programs, kv_heads, splits, tile, 2, dtype=torch.float32, device=queries.device)
    else:
        part, scale = out, out
    # In float32 more stages do not fit into 99 KB of shared memory, which many GPUs have, with heads of 128.
    stages = 3 if queries.dtype != torch.float32 else 2 if tile <= 32 else 1
    shape: dict[str, Any] = {
        "SIZE": size, "GROUP": group, "HEADS": heads, "KV_HEADS": kv_heads, "WIDTH": width, "TILE": tile,
        "WIDTH_2": triton.next_power_of_2(width), "SPLITS": splits,
    }  # fmt: skip
    _attend_kernel[(programs, kv_heads, splits)](
        queries, cache, slots, ends, out, part, scale, pairs, queries.stride(1), capacity,
        1 / math.sqrt(width) * math.log2(math.e), KEYS=_KEYS, **shape, num_warps=4, num_stages=stages,
        **early(queries, blocks * size),
    )  # fmt: skip
    if splits > 1:
        # A program per row: attention to 388 keys of one sequence in 11 parts takes 6.5 us on an H200, and 15.2 with
        # a program per tile.
        _combine_kernel[(programs, kv_heads, tile)](
            part, scale, out, pairs, SPLITS_2=triton.next_power_of_2(splits), ROWS=1, **shape, num_warps=1,
            **early(queries, blocks * size),
        )  # fmt: skip
    return out


if triton is not None:

    @triton.jit
    def _attend_kernel(
        queries, cache, slots, ends, out, part, scale_out, pairs, stride, capacity, scale,
        SIZE: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr,
        WIDTH_2: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, KEYS: tl.constexpr,
        EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        block, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        rows, columns = tl.arange(0, TILE), tl.arange(0, WIDTH_2)
        # Row r is query r // GROUP of head `head * GROUP + r % GROUP`, first those of one block, then of the other.
        real = rows < SIZE * GROUP * tl.where(block < pairs, 2, 1)
        one = tl.where(block < pairs, block, block + pairs)
        position = (one + rows // (SIZE * GROUP) * pairs) * SIZE + rows // GROUP % SIZE
        slot = tl.load(slots + one).to(tl.int64)
        own_head = head * GROUP + rows % GROUP
        there = real[:, None] & (columns < WIDTH)[None, :]
        q = tl.load(queries + (position * stride + own_head * WIDTH)[:, None] + columns[None, :], mask=there, other=0.0)
        own_end = tl.load(ends + position // SIZE, mask=real, other=0)
        end = tl.max(own_end, 0)
        highest = tl.full([TILE], float("-inf"), tl.float32)
        total = tl.zeros([TILE], tl.float32)
        sums = tl.zeros([TILE, WIDTH_2], tl.float32)
        share = tl.cdiv(tl.cdiv(end, KEYS), SPLITS) * KEYS
        for first in range(split * share, tl.minimum(end, split * share + share), KEYS):
            keys = first + tl.arange(0, KEYS)
            base = ((slot * capacity + keys) * 2 * KV_HEADS + head) * WIDTH
            wide = (keys < end)[:, None] & (columns < WIDTH)[None, :]
            k = tl.load(cache + base[:, None] + columns[None, :], mask=wide, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(keys[None, :] < own_end[:, None], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            # Of these keys a row may see none.
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            weights = tl.exp2(scores - finite[:, None])
            shrink = tl.exp2(highest - finite)
            v = tl.load(cache + base[:, None] + KV_HEADS * WIDTH + columns[None, :], mask=wide, other=0.0)
            total = total * shrink + tl.sum(weights, 1)
            sums = sums * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            highest = higher
        if SPLITS == 1:
            at = (position * HEADS + own_head) * WIDTH
            tl.store(out + at[:, None] + columns[None, :], sums / total[:, None], mask=there)
        else:
            cell = ((block * KV_HEADS + head) * SPLITS + split) * TILE + rows
            tl.store(part + cell[:, None] * WIDTH + columns[None, :], sums, mask=there)
            tl.store(scale_out + cell * 2, highest)
            tl.store(scale_out + cell * 2 + 1, total)

    @triton.jit
    def _combine_kernel(
        part, scales, out, pairs,
        SIZE: tl.constexpr, GROUP: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr,
        WIDTH_2: tl.constexpr, TILE: tl.constexpr, SPLITS: tl.constexpr, SPLITS_2: tl.constexpr, ROWS: tl.constexpr,
        EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        block, head = tl.program_id(0), tl.program_id(1)
        rows, columns = tl.program_id(2) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH_2)
        split = tl.arange(0, SPLITS_2)
        real = rows < SIZE * GROUP * tl.where(block < pairs, 2, 1)
        cell = ((block * KV_HEADS + head) * SPLITS + split)[:, None] * TILE + rows[None, :]
        there = (split < SPLITS)[:, None] & real[None, :]
        high = tl.load(scales + cell * 2, mask=there, other=float("-inf"))
        total = tl.load(scales + cell * 2 + 1, mask=there, other=0.0)
        highest = tl.max(high, 0)
        highest = tl.where(highest == float("-inf"), 0.0, highest)
        # A part without keys has -inf and a total of 0: it adds nothing.
        grow = tl.where(high == float("-inf"), 0.0, tl.exp2(high - highest[None, :]))
        wide = (columns < WIDTH)[None, None, :]
        some = tl.load(
            part + cell[:, :, None] * WIDTH + columns[None, None, :], mask=there[:, :, None] & wide, other=0.0
        )
        sums = tl.sum(some * grow[:, :, None], 0) / tl.sum(total * grow, 0)[:, None]
        one = tl.where(block < pairs, block, block + pairs)
        position = (one + rows // (SIZE * GROUP) * pairs) * SIZE + rows // GROUP % SIZE
        at = (position * HEADS + head * GROUP + rows % GROUP) * WIDTH
        tl.store(out + at[:, None] + columns[None, :], sums, mask=real[:, None] & (columns < WIDTH)[None, :])
