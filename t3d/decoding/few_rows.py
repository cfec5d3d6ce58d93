"""The likeliest token of a model's states, and its log-odds.

With one or two sequences a forward waits for weights, and the head needs no kernel after it: the likeliest token and
its log-odds are read off the logits while they are computed. With more, they are read off the written logits once.
Beside each kernel stands the same in PyTorch; it is the reference in the tests.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from t3d.decoding.launch import early
from t3d.decoding.layer_kernels import norm, norm_plainly

try:
    import triton
    import triton.language as tl

    from t3d.decoding.launch import begin
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

_MOST_ROWS = 16
"""Rows of `best_token`; larger numbers were not measured."""
_TOKENS = 4096
"""Logits of one program of `best_of_logits`; 2,048 to 8,192 take the same time within a tenth."""


def likeliest(x: Tensor, norm_weight: Tensor, head: Any, epsilon: float, excluded: int) -> tuple[Tensor, Tensor]:
    """`best_token` with any number of rows."""
    if head.bias is None and len(x) <= _MOST_ROWS:
        return best_token(x, head.weight, norm_weight, epsilon, excluded)
    return best_of_logits(head(norm(x, norm_weight, epsilon)), excluded)


def best_token_plainly(
    x: Tensor, weight: Tensor, norm_weight: Tensor, epsilon: float, excluded: int
) -> tuple[Tensor, Tensor]:
    """`best_token` in PyTorch."""
    return best_of_logits_plainly(linear(norm_plainly(x, norm_weight, epsilon), weight), excluded)


def best_of_logits_plainly(logits: Tensor, excluded: int) -> tuple[Tensor, Tensor]:
    """`best_of_logits` in PyTorch."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.float().masked_fill(columns == excluded, float("-inf"))
    tokens = logits.argmax(dim=-1)
    others = logits.masked_fill(columns == tokens[:, None], float("-inf")).logsumexp(dim=-1)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - others


def best_token(x: Tensor, weight: Tensor, norm_weight: Tensor, epsilon: float, excluded: int) -> tuple[Tensor, Tensor]:
    """The likeliest token of each of few rows, and log(p / (1 - p)), without writing logits.

    A program keeps, of its tile of the vocabulary, the largest logit, the next one and the sum of the others; a second
    kernel puts them together. For four rows of a 4B model that takes 190 us on an H200; norm, product and draw one
    after the other take 274.

    Args:
        x: states before the final norm, `[rows, depth]`.
        weight: of the head, `[vocabulary, depth]`.
        norm_weight: of the final norm.
        epsilon: of the norm.
        excluded: id that is never chosen, or below 0.

    Returns:
        Tokens, int64 `[rows]`, and their log-odds, float32 `[rows]`; not finite where a logit is NaN or infinite.
    """
    (rows, depth), vocabulary = x.shape, len(weight)
    # In float32 larger tiles do not fit into 99 KB of shared memory, which many GPUs have.
    columns, step = 64 if x.dtype == torch.float32 else 128, min(128, triton.next_power_of_2(depth))
    count = triton.cdiv(vocabulary, columns)
    parts, ids = _parts(x, count)
    _head_kernel[(count,)](
        x, weight, norm_weight, parts, ids, rows, vocabulary, depth, epsilon, excluded, count,
        ROWS=max(8, triton.next_power_of_2(rows)), COLUMNS=columns, DEPTH=step, EVEN=depth % step == 0,
        num_warps=4, num_stages=3, **early(x, rows),
    )  # fmt: skip
    return _choose(parts, ids)


def best_of_logits(logits: Tensor, excluded: int) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row of `logits [rows, vocabulary]`, and log(p / (1 - p)), as in `best_token`.

    The logits are read once: for 128, 512 and 2,048 rows of 151,936 tokens 38, 129 and 474 us on an H200 (with
    `tl.argmax` still), where the same in PyTorch, compiled, takes 137, 415 and 1,512.
    """
    rows, vocabulary = logits.shape
    count = triton.cdiv(vocabulary, _TOKENS)
    parts, ids = _parts(logits, count)
    _read_kernel[(count, rows)](
        logits, parts, ids, rows, vocabulary, logits.stride(0), excluded, count, COLUMNS=_TOKENS, num_warps=4,
        **early(logits, rows),
    )  # fmt: skip
    return _choose(parts, ids)


def _parts(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Room for what `count` programs find out about each row of `x`."""
    numbers = torch.empty(3, len(x), count, dtype=torch.float32, device=x.device)
    return numbers, torch.empty(len(x), count, dtype=torch.int32, device=x.device)


def _choose(parts: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and log-odds of all rows, of what the programs found out."""
    rows, count = ids.shape
    tokens = torch.empty(rows, dtype=torch.long, device=ids.device)
    log_odds = torch.empty(rows, dtype=torch.float32, device=ids.device)
    _choose_kernel[(rows,)](
        parts, ids, tokens, log_odds, rows, count, COUNT=triton.next_power_of_2(count), **early(ids, rows)
    )
    return tokens, log_odds


if triton is not None:

    @triton.jit
    def _head_kernel(
        x, weight, norm_weight, parts, ids, rows, vocabulary, depth, epsilon, excluded, count,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
        EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        tile = tl.program_id(0)
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        row, inner = tl.arange(0, ROWS), tl.arange(0, DEPTH)
        # Columns behind the vocabulary read its last one, so that no mask is needed.
        own = weight + tl.minimum(column, vocabulary - 1).to(tl.int64)[:, None] * depth + inner[None, :]
        logits = tl.zeros([COLUMNS, ROWS], tl.float32)
        squares = tl.zeros([ROWS], tl.float32)
        for first in range(0, depth, DEPTH):
            own_x = x + row[:, None] * depth + (first + inner)[None, :]
            if EVEN:
                w, scale = tl.load(own + first), tl.load(norm_weight + first + inner)
                values = tl.load(own_x, mask=(row < rows)[:, None], other=0.0)
            else:
                inside = first + inner < depth
                w = tl.load(own + first, mask=inside[None, :], other=0.0)
                scale = tl.load(norm_weight + first + inner, mask=inside, other=0.0)
                values = tl.load(own_x, mask=(row < rows)[:, None] & inside[None, :], other=0.0)
            wide = values.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            scaled = (wide * scale.to(tl.float32)[None, :]).to(values.dtype)
            logits = tl.dot(w, tl.trans(scaled), logits, input_precision="ieee")
        # The norm's factor belongs to a row, so it can come after the product.
        logits *= tl.rsqrt(squares / depth + epsilon)[None, :]
        # NaN as infinity, which comparisons find: the log-odds are not finite then.
        logits = tl.where(logits == logits, logits, float("inf"))
        left_out = (column >= vocabulary) | (column == excluded)
        logits = tl.where(left_out[:, None], float("-inf"), logits)
        best = tl.argmax(logits, 0)
        others = tl.where(tl.arange(0, COLUMNS)[:, None] == best[None, :], float("-inf"), logits)
        second = tl.max(others, 0)
        # -inf adds nothing, also where all are -inf.
        rest = tl.sum(tl.where(others == float("-inf"), 0.0, tl.exp(others - second[None, :])), 0)
        at = row * count + tile
        tl.store(parts + at, tl.max(logits, 0), mask=row < rows)
        tl.store(parts + rows * count + at, second, mask=row < rows)
        tl.store(parts + 2 * rows * count + at, rest, mask=row < rows)
        tl.store(ids + at, tile * COLUMNS + best, mask=row < rows)

    @triton.jit
    def _read_kernel(
        logits, parts, ids, rows, vocabulary, stride, excluded, count, COLUMNS: tl.constexpr, EARLY: tl.constexpr
    ):  # fmt: skip
        begin(EARLY)
        tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        read = tl.load(logits + row * stride + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        # NaN as infinity, as above.
        read = tl.where(read == read, read, float("inf"))
        read = tl.where(column == excluded, float("-inf"), read)
        # A maximum and the first place that has it: `tl.argmax` carries both through every comparison.
        high, inner = tl.max(read, 0), tl.arange(0, COLUMNS)
        best = tl.min(tl.where(read == high, inner, COLUMNS), 0)
        others = tl.where(inner == best, float("-inf"), read)
        second = tl.max(others, 0)
        rest = tl.sum(tl.exp(others - tl.where(second == float("-inf"), 0.0, second)), 0)
        at = row * count + tile
        tl.store(parts + at, high)
        tl.store(parts + rows * count + at, second)
        tl.store(parts + 2 * rows * count + at, rest)
        tl.store(ids + at, tile * COLUMNS + best)

    @triton.jit
    def _choose_kernel(parts, ids, tokens, log_odds, rows, count, COUNT: tl.constexpr, EARLY: tl.constexpr):
        begin(EARLY)
        row, tile = tl.program_id(0), tl.arange(0, COUNT)
        there = tile < count
        at = row * count + tile
        high = tl.load(parts + at, mask=there, other=float("-inf"))
        second = tl.load(parts + rows * count + at, mask=there, other=float("-inf"))
        rest = tl.load(parts + 2 * rows * count + at, mask=there, other=0.0)
        token = tl.load(ids + at, mask=there, other=2147483647)
        highest = tl.max(high, 0)
        best = tl.min(tl.where(high == highest, token, 2147483647), 0)
        # Of the tile that has the best token count the others, of every other tile all.
        own = token == best
        base = tl.where(own, second, high)
        sums = tl.where(own, rest, 1.0 + tl.where(second == float("-inf"), 0.0, rest * tl.exp(second - high)))
        next_one = tl.max(base, 0)
        total = tl.sum(tl.where(base == float("-inf"), 0.0, sums * tl.exp(base - next_one)), 0)
        tl.store(tokens + row, best.to(tl.int64))
        tl.store(log_odds + row, highest - next_one - tl.log(total))
