"""Products of few rows with a matrix, at the speed at which the matrix is read.

With few sequences a forward waits for its weights. A program takes some columns of the product and a part of the sum,
so that all programs are at work at the same time and end together; the kernel that reads the product adds the parts.
On an H200 the four products of 8 rows in a layer of a 4B model take 58 us, and 67 in cuBLAS.

While the small kernels ahead of it run, a product already fetches its first weights into the GPU's L2 cache.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from t3d.decoding.launch import early

try:
    import triton
    import triton.language as tl

    from t3d.decoding.launch import let_next_come, wait_for_last
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

MOST_ROWS = 32
"""More rows are left to cuBLAS. With products in parts a 4B model writes 1.06 times as many tokens per second with 32
rows (four sequences at `b4s1`), 0.85 times as many with 64."""
_DEPTH = 128
"""Numbers of a column that a program multiplies at a time."""
_AHEAD = 256
"""Numbers of a column that are fetched early: 1,489 tokens per second of a 4B model with one sequence, 1,459 with none,
1,480 with 384."""
_PROGRAMS = 3
"""Programs for each of the GPU's processors. With 2 a 4B model is 2 % slower, with 5 one of 1.7B 4 %."""


def in_parts(x: Tensor, weight: Tensor, bias: Tensor | None = None, programs: int | None = None) -> Tensor:
    """x W^T + b as a sum of parts, float32 `[parts, rows, columns]`.

    Args:
        x: contiguous `[rows, depth]`, at most `MOST_ROWS` of them.
        weight: contiguous `[columns, depth]`.
        bias: `[columns]`.
        programs: so many are aimed at, `_PROGRAMS` for each processor unless given. There are never fewer than tiles of
            columns.
    """
    (rows, depth), columns = x.shape, len(weight)
    shape = _shape(x)
    tiles, steps = triton.cdiv(columns, shape["COLUMNS"]), triton.cdiv(depth, _DEPTH)
    share = triton.cdiv(steps, max(1, (programs or _programs(x.device)) // tiles))
    parts = triton.cdiv(steps, share)
    out = torch.empty(parts, rows, columns, dtype=torch.float32, device=x.device)
    _parts_kernel[(tiles, parts)](
        x, weight, bias, out, rows, columns, depth, share * _DEPTH, BIAS=bias is not None, **shape
    )
    return out


def gated(x: Tensor, weight: Tensor) -> Tensor:
    """silu(x G^T) * (x U^T), `[rows, columns]`, where `weight [2 columns, depth]` holds G above U."""
    (rows, depth), columns = x.shape, len(weight) // 2
    shape = _shape(x)
    # A program has as many columns of both together as a program of `in_parts`.
    shape["COLUMNS"] //= 2
    out = x.new_empty(rows, columns)
    _gated_kernel[(triton.cdiv(columns, shape["COLUMNS"]),)](x, weight, out, rows, columns, depth, **shape)
    return out


def _shape(x: Tensor) -> dict[str, Any]:
    rows, depth = x.shape
    even = depth % _DEPTH == 0
    options = early(x, rows)
    return {
        "ROWS": max(8, triton.next_power_of_2(rows)), "COLUMNS": 32 if rows <= 16 else 64, "DEPTH": _DEPTH,
        "EVEN": even,
        # What is fetched begins and ends at a multiple of 16 bytes.
        "AHEAD": _AHEAD if options["EARLY"] and even else 0, "num_warps": 2, "num_stages": 3, **options,
    }  # fmt: skip


@cache
def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return _PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


if triton is not None:

    @triton.jit
    def _fetch(weight, column, depth, start, many):
        # Into the L2 cache: `many` numbers of each column, in two halves. A column stands twice in `column`.
        half = many // 2
        first = column.to(tl.int64) * depth + start + tl.arange(0, column.shape[0]) % 2 * half
        size = column * 0 + half * (weight.dtype.element_ty.primitive_bitwidth // 8)
        tl.inline_asm_elementwise(
            "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;", "=r,l,r",
            args=[(weight + first).to(tl.int64), size], dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip

    @triton.jit
    def _multiply(
        x, weight, column, rows, depth, start, end,
        ROWS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        # The columns' products with all rows, `[columns, rows]`, of the numbers from `start` to `end`.
        wait_for_last(EARLY)
        row, inner = tl.arange(0, ROWS), tl.arange(0, DEPTH)
        real = (row < rows)[:, None]
        own = weight + column.to(tl.int64)[:, None] * depth + inner[None, :]
        own_x = x + row[:, None] * depth + inner[None, :]
        sums = tl.zeros([column.shape[0], ROWS], tl.float32)
        for first in range(start, end, DEPTH):
            if EVEN:
                w, values = tl.load(own + first), tl.load(own_x + first, mask=real, other=0.0)
            else:
                inside = (first + inner < depth)[None, :]
                w = tl.load(own + first, mask=inside, other=0.0)
                values = tl.load(own_x + first, mask=real & inside, other=0.0)
            sums = tl.dot(w, tl.trans(values), sums, input_precision="ieee")
        # Not before: programs of the next kernel would come while these still read, some processors would get more
        # of them than others, and a step of 4B would take 1.15 times as long.
        let_next_come(EARLY)
        return sums

    @triton.jit
    def _parts_kernel(
        x, weight, bias, out, rows, columns, depth, share,
        BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
        AHEAD: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        first, part = tl.program_id(0) * COLUMNS, tl.program_id(1)
        start = part * share
        end = tl.minimum(start + share, depth)
        # Columns behind the last one read it, so that no mask is needed.
        last = columns - 1
        if AHEAD:
            twice = tl.minimum(first + tl.arange(0, 2 * COLUMNS) // 2, last)
            _fetch(weight, twice, depth, start, tl.minimum(AHEAD, end - start))
        column = first + tl.arange(0, COLUMNS)
        sums = _multiply(x, weight, tl.minimum(column, last), rows, depth, start, end, ROWS, DEPTH, EVEN, EARLY)
        there, row = column < columns, tl.arange(0, ROWS)
        if BIAS:
            # Only the first part has it.
            added = tl.load(bias + column, mask=column < tl.where(part == 0, columns, 0), other=0.0)
            sums += added.to(tl.float32)[:, None]
        at = out + ((part * rows + row) * columns)[None, :] + column[:, None]
        tl.store(at, sums, mask=there[:, None] & (row < rows)[None, :])

    @triton.jit
    def _gated_kernel(
        x, weight, out, rows, columns, depth,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
        AHEAD: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        # First the columns of the gates, then those of the inputs.
        first, last = tl.program_id(0) * COLUMNS, columns - 1
        if AHEAD:
            own = tl.arange(0, 4 * COLUMNS) // 2
            twice = tl.minimum(first + own % COLUMNS, last) + own // COLUMNS * columns
            _fetch(weight, twice, depth, 0, tl.minimum(AHEAD, depth))
        own = tl.arange(0, 2 * COLUMNS)
        both = tl.minimum(first + own % COLUMNS, last) + own // COLUMNS * columns
        sums = _multiply(x, weight, both, rows, depth, 0, depth, ROWS, DEPTH, EVEN, EARLY)
        gates, inputs = tl.split(tl.permute(tl.reshape(sums, [2, COLUMNS, ROWS]), [1, 2, 0]))
        column, row = first + tl.arange(0, COLUMNS), tl.arange(0, ROWS)
        there = (column < columns)[:, None] & (row < rows)[None, :]
        tl.store(out + (row * columns)[None, :] + column[:, None], gates / (1 + tl.exp(-gates)) * inputs, mask=there)
