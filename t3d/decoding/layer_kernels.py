"""Kernels of a forward: before its layers, and in a layer between the matrix products.

Norms and rotations of queries and keys and the writing of keys and values are one kernel instead of four: for 8, 256,
1,024 and 4,096 tokens of a 4B model 2.3, 3.3, 8.9 and 29 us a layer on an H200 instead of 9.5, 14.4, 39.7 and 138.
Beside each kernel stands the same in PyTorch; it is what runs elsewhere, and the reference in the tests.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from t3d.decoding.launch import by_kernel, early

try:
    import triton
    import triton.language as tl

    from t3d.decoding.launch import begin
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

_HEADS_2 = 16
"""Heads of one program of `turn_and_write`, a power of two: four times as fast at 1,024 tokens as a program a head."""
_COLUMNS = 1024
"""Numbers of one program of `swiglu`: 1.6 us for 8 rows of a 4B model on an H200, 1.9 with 2,048 and 3.2 with 4,096."""


def locate(
    slots: Tensor, starts: Tensor, turns: Tensor, size: int, capacity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the layers need to know about where blocks are.

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
    if not by_kernel(starts):
        return locate_plainly(slots, starts, turns, size, capacity)
    blocks, width = len(slots), turns.shape[2]
    places = starts.new_empty(blocks * size)
    owners, ends = (torch.empty(blocks, dtype=torch.int32, device=slots.device) for _ in range(2))
    own = turns.new_empty(2, blocks * size, width)
    _locate_kernel[(blocks,)](
        slots, starts, turns, places, own, owners, ends, blocks * size, capacity,
        SIZE=size, SIZE_2=triton.next_power_of_2(size), WIDTH=width, WIDTH_2=triton.next_power_of_2(width), num_warps=4,
        **early(slots, blocks * size),
    )  # fmt: skip
    return places, own, owners, ends


def locate_plainly(
    slots: Tensor, starts: Tensor, turns: Tensor, size: int, capacity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`locate` in PyTorch."""
    positions = starts[:, None] + torch.arange(size, device=starts.device)
    places = (slots * capacity)[:, None] + positions
    return places.flatten(), turns[:, positions.flatten()], slots.int(), (starts + size).int()


def norm(x: Tensor, weight: Tensor, epsilon: float, parts: Tensor | None = None) -> Tensor:
    """RMSNorm of `x [rows, width]`; `parts` of a product, `[parts, rows, width]`, are first added to `x`, in place.

    Products come in parts only where kernels run.
    """
    if not by_kernel(x):
        return norm_plainly(x, weight, epsilon)
    rows, width = x.shape
    out, width_2 = torch.empty_like(x), triton.next_power_of_2(width)
    # Eight numbers a thread, as far as there are threads.
    warps = min(8, max(1, width_2 // 256))
    _norm_kernel[(rows,)](
        x, parts, weight, out, rows, width, epsilon,
        PARTS=0 if parts is None else len(parts), WIDTH_2=width_2, num_warps=warps, **early(x, rows),
    )  # fmt: skip
    return out


def norm_plainly(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`norm` in PyTorch, over the last dimension."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def swiglu(x: Tensor) -> Tensor:
    """silu(gates) * inputs of `x [rows, gates and inputs]`."""
    if not by_kernel(x):
        return swiglu_plainly(x)
    rows, width = len(x), x.shape[1] // 2
    out = x.new_empty(rows, width)
    _swiglu_kernel[(rows, triton.cdiv(width, _COLUMNS))](x, out, width, COLUMNS=_COLUMNS, num_warps=4, **early(x, rows))
    return out


def swiglu_plainly(x: Tensor) -> Tensor:
    """`swiglu` in PyTorch."""
    gates, inputs = x.chunk(2, dim=-1)
    return silu(gates) * inputs


def turn(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    kv_heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Norms and rotations of queries and keys, in PyTorch.

    Args:
        qkv: `[rows, (heads + 2 key/value heads) * width]`.
        norms: weights of the norms of queries and of keys; None where there are none.
        cos: of each row's position, `[rows, width]`.
        sin: as `cos`.
        heads: of the queries.
        kv_heads: of keys and of values.
        epsilon: of the norms.

    Returns:
        Queries `[rows, heads, width]`, keys and values `[rows, 2, key/value heads, width]`.
    """
    q, k, v = qkv.view(len(qkv), -1, cos.shape[-1]).split((heads, kv_heads, kv_heads), dim=1)
    if norms is not None:
        q, k = norm_plainly(q, norms[0], epsilon), norm_plainly(k, norms[1], epsilon)
    return _rotate(q, cos, sin), torch.stack((_rotate(k, cos, sin), v), dim=1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-high, low), dim=-1) * sin[:, None]


def turn_and_write(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    epsilon: float,
    places: Tensor,
    cache: Tensor,
) -> Tensor:
    """`turn`, which also writes keys and values to row `places [rows]` of `cache`.

    The cache is `[rows of the cache, 2, key/value heads, width]`. `qkv` may be in parts, `[parts, rows, ...]`,
    where kernels run. Returns the queries.
    """
    rows, (kv_heads, width) = qkv.shape[-2], cache.shape[2:]
    whole = qkv.dim() == 2
    if not by_kernel(qkv):
        queries, kv = turn(qkv, norms, cos, sin, heads, kv_heads, epsilon)
        cache.index_copy_(0, places, kv)
        return queries
    # In place, where that is possible.
    queries = qkv if whole else cache.new_empty(rows, heads * width)
    q_norm, k_norm = norms or (None, None)
    _turn_kernel[(rows, triton.cdiv(heads + 2 * kv_heads, _HEADS_2))](
        qkv, queries, q_norm, k_norm, cos, sin, places, cache, rows, queries.stride(0), epsilon,
        HEADS=heads, KV_HEADS=kv_heads, HALF=width // 2, HALF_2=triton.next_power_of_2(width // 2),
        NORM=norms is not None, HEADS_2=_HEADS_2, PARTS=1 if whole else len(qkv), num_warps=4, **early(qkv, rows),
    )  # fmt: skip
    return queries.view(rows, -1, width)[:, :heads]


if triton is not None:

    @triton.jit
    def _locate_kernel(
        slots, starts, turns, places, own, owners, ends, rows, capacity,
        SIZE: tl.constexpr, SIZE_2: tl.constexpr, WIDTH: tl.constexpr, WIDTH_2: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
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

    @triton.jit
    def _norm_kernel(
        x, parts, weight, out, rows, width, epsilon, PARTS: tl.constexpr, WIDTH_2: tl.constexpr, EARLY: tl.constexpr
    ):  # fmt: skip
        row, column = tl.program_id(0).to(tl.int64), tl.arange(0, WIDTH_2)
        there, at = column < width, row * width + column
        # Before the sum, which everything after it waits for.
        scale = tl.load(weight + column, mask=there, other=0.0)
        begin(EARLY)
        own = tl.load(x + at, mask=there, other=0.0)
        kind = own.dtype
        if PARTS:
            wide = own.to(tl.float32)
            for part in tl.static_range(PARTS):
                wide += tl.load(parts + part * rows * width + at, mask=there, other=0.0)
            own = wide.to(kind)
            tl.store(x + at, own, mask=there)
        wide = own.to(tl.float32)
        factor = tl.rsqrt(tl.sum(wide * wide, 0) / width + epsilon)
        tl.store(out + at, (wide * factor).to(kind) * scale, mask=there)

    @triton.jit
    def _swiglu_kernel(x, out, width, COLUMNS: tl.constexpr, EARLY: tl.constexpr):
        begin(EARLY)
        row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        there, at = column < width, row * 2 * width + column
        gates = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        inputs = tl.load(x + at + width, mask=there, other=0.0).to(tl.float32)
        tl.store(out + row * width + column, gates / (1 + tl.exp(-gates)) * inputs, mask=there)

    @triton.jit
    def _turn_kernel(
        qkv, queries, q_norm, k_norm, cos, sin, places, cache, rows, stride, epsilon,
        HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_2: tl.constexpr, NORM: tl.constexpr,
        HEADS_2: tl.constexpr, PARTS: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        row = tl.program_id(0).to(tl.int64)
        head = tl.program_id(1) * HEADS_2 + tl.arange(0, HEADS_2)
        half = tl.arange(0, HALF_2)[None, :]
        inside = half < HALF
        there = (head < HEADS + 2 * KV_HEADS)[:, None] & inside
        is_query, is_turned = (head < HEADS)[:, None], (head < HEADS + KV_HEADS)[:, None]
        at = qkv + ((row * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF)[:, None] + half
        low, high = tl.load(at, mask=there, other=0.0), tl.load(at + HALF, mask=there, other=0.0)
        # All that is read is read before the sums, which everything after them waits for.
        angle = row * 2 * HALF + half
        cos_low, cos_high = tl.load(cos + angle, mask=inside), tl.load(cos + angle + HALF, mask=inside)
        sin_low, sin_high = tl.load(sin + angle, mask=inside), tl.load(sin + angle + HALF, mask=inside)
        place = tl.load(places + row)
        kind = cache.dtype.element_ty
        for part in tl.static_range(1, PARTS):
            own = at + part * rows * (HEADS + 2 * KV_HEADS) * 2 * HALF
            low += tl.load(own, mask=there, other=0.0)
            high += tl.load(own + HALF, mask=there, other=0.0)
        low, high = low.to(kind), high.to(kind)
        new_low, new_high = low, high
        if NORM:
            q_low, q_high = tl.load(q_norm + half, mask=inside), tl.load(q_norm + HALF + half, mask=inside)
            k_low, k_high = tl.load(k_norm + half, mask=inside), tl.load(k_norm + HALF + half, mask=inside)
            wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
            squares = tl.sum(wide_low * wide_low, 1) + tl.sum(wide_high * wide_high, 1)
            factor = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
            new_low = (wide_low * factor).to(kind) * tl.where(is_query, q_low, k_low)
            new_high = (wide_high * factor).to(kind) * tl.where(is_query, q_high, k_high)
        turned_low, turned_high = new_low * cos_low - new_high * sin_low, new_high * cos_high + new_low * sin_high
        # Values stay as they are.
        low, high = tl.where(is_turned, turned_low.to(kind), low), tl.where(is_turned, turned_high.to(kind), high)
        own_query = queries + (row * stride + head * 2 * HALF)[:, None] + half
        tl.store(own_query, low, mask=there & is_query)
        tl.store(own_query + HALF, high, mask=there & is_query)
        to = cache + ((place * 2 * KV_HEADS + head - HEADS) * 2 * HALF)[:, None] + half
        written = there & (head >= HEADS)[:, None]
        tl.store(to, low, mask=written)
        tl.store(to + HALF, high, mask=written)
