"""Kernels for the work between the matrix products of a forward.

Norms and rotations of queries and keys and the writing of keys and values are one kernel instead of four: for 8, 256,
1,024 and 4,096 tokens of a 4B model 2.3, 3.3, 8.9 and 29 us a layer on an H200 instead of 9.5, 14.4, 39.7 and 138.
With one or two sequences a forward waits for weights, and the head needs no kernel after it: the likeliest token and
its log-odds are read off the logits while they are computed. With more, they are read off the written logits once.
Beside each kernel stands the same in PyTorch; it is what runs elsewhere, and the reference in the tests.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

_HEADS_2 = 16
"""Heads of one program of `turn_and_write`, a power of two: four times as fast at 1,024 tokens as a program a head."""
_MOST_ROWS = 16
"""Rows of `best_token`; larger numbers were not measured."""
_TOKENS = 4096
"""Logits of one program of `best_of_logits`; 2,048 to 8,192 take the same time within a tenth."""


def by_kernel(x: Tensor) -> bool:
    """Whether kernels take `x`: on a GPU, or where Triton interprets its kernels, as tests do."""
    return triton is not None and (x.is_cuda or triton.knobs.runtime.interpret)


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last dimension."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def turn(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    kv_heads: int,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """Norms and rotations of queries and keys.

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
        q, k = norm(q, norms[0], epsilon), norm(k, norms[1], epsilon)
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
    """`turn` in one kernel, which also writes keys and values to row `places [rows]` of `cache`.

    The cache is `[rows of the cache, 2, key/value heads, width]`. Returns the queries, a view of `qkv`.
    """
    rows, (kv_heads, width) = len(qkv), cache.shape[2:]
    every = heads + 2 * kv_heads
    q_norm, k_norm = norms or (None, None)
    _turn_kernel[(rows, triton.cdiv(every, _HEADS_2))](
        qkv, q_norm, k_norm, cos, sin, places, cache, epsilon,
        HEADS=heads, KV_HEADS=kv_heads, HALF=width // 2, HALF_2=triton.next_power_of_2(width // 2),
        NORM=norms is not None, HEADS_2=_HEADS_2, num_warps=4,
    )  # fmt: skip
    return qkv.view(rows, every, width)[:, :heads]


def likeliest(x: Tensor, norm: Any, head: Any, epsilon: float, excluded: int) -> tuple[Tensor, Tensor]:
    """`best_token` of a model's final norm and head, also with more rows."""
    if head.bias is None and len(x) <= _MOST_ROWS:
        return best_token(x, head.weight, norm.weight, epsilon, excluded)
    return best_of_logits(head(norm(x)), excluded)


def best_token_plainly(
    x: Tensor, weight: Tensor, norm_weight: Tensor, epsilon: float, excluded: int
) -> tuple[Tensor, Tensor]:
    """`best_token` in PyTorch."""
    return best_of_logits_plainly(linear(norm(x, norm_weight, epsilon), weight), excluded)


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
    kernel puts them together. Head and draw of four rows of a 4B model take 184 us on an H200, 198 one after the other.

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
    # In float32 larger tiles do not fit into the shared memory.
    exact = x.dtype == torch.float32
    tiles: dict[str, Any] = {"COLUMNS": 64, "num_stages": 4} if exact else {"COLUMNS": 128, "num_stages": 3}
    tiles["DEPTH"] = min(128, triton.next_power_of_2(depth))
    count = triton.cdiv(vocabulary, tiles["COLUMNS"])
    parts, ids = _parts(x, count)
    _head_kernel[(count,)](
        x, weight, norm_weight, parts, ids, rows, vocabulary, depth, epsilon, excluded, count,
        ROWS=max(8, triton.next_power_of_2(rows)), EVEN=depth % tiles["DEPTH"] == 0,
        EXACT="ieee" if exact else "tf32", num_warps=4, **tiles,
    )  # fmt: skip
    return _choose(parts, ids)


def best_of_logits(logits: Tensor, excluded: int) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row of `logits [rows, vocabulary]`, and log(p / (1 - p)), as in `best_token`.

    The logits are read once: for 128, 512 and 2,048 rows of 151,936 tokens 38, 129 and 474 us on an H200, where the
    same in PyTorch, compiled, takes 137, 415 and 1,512.
    """
    rows, vocabulary = logits.shape
    count = triton.cdiv(vocabulary, _TOKENS)
    parts, ids = _parts(logits, count)
    _read_kernel[(count, rows)](
        logits, parts, ids, rows, vocabulary, logits.stride(0), excluded, count, COLUMNS=_TOKENS, num_warps=4
    )
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
    _choose_kernel[(rows,)](parts, ids, tokens, log_odds, rows, count, COUNT=triton.next_power_of_2(count))
    return tokens, log_odds


if triton is not None:

    @triton.jit
    def _turn_kernel(
        qkv, q_norm, k_norm, cos, sin, places, cache, epsilon,
        HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, HALF_2: tl.constexpr, NORM: tl.constexpr,
        HEADS_2: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        head = tl.program_id(1) * HEADS_2 + tl.arange(0, HEADS_2)
        half = tl.arange(0, HALF_2)[None, :]
        inside = half < HALF
        there = (head < HEADS + 2 * KV_HEADS)[:, None] & inside
        is_query, is_turned = (head < HEADS)[:, None], (head < HEADS + KV_HEADS)[:, None]
        at = qkv + ((row * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF)[:, None] + half
        low, high = tl.load(at, mask=there, other=0.0), tl.load(at + HALF, mask=there, other=0.0)
        kind = low.dtype
        new_low, new_high = low, high
        if NORM:
            wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
            squares = tl.sum(wide_low * wide_low, 1) + tl.sum(wide_high * wide_high, 1)
            factor = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
            q_low, q_high = tl.load(q_norm + half, mask=inside), tl.load(q_norm + HALF + half, mask=inside)
            k_low, k_high = tl.load(k_norm + half, mask=inside), tl.load(k_norm + HALF + half, mask=inside)
            new_low = (wide_low * factor).to(kind) * tl.where(is_query, q_low, k_low)
            new_high = (wide_high * factor).to(kind) * tl.where(is_query, q_high, k_high)
        angle = row * 2 * HALF + half
        cos_low, cos_high = tl.load(cos + angle, mask=inside), tl.load(cos + angle + HALF, mask=inside)
        sin_low, sin_high = tl.load(sin + angle, mask=inside), tl.load(sin + angle + HALF, mask=inside)
        turned_low, turned_high = new_low * cos_low - new_high * sin_low, new_high * cos_high + new_low * sin_high
        # Values stay as they are.
        low, high = tl.where(is_turned, turned_low.to(kind), low), tl.where(is_turned, turned_high.to(kind), high)
        tl.store(at, low, mask=there & is_query)
        tl.store(at + HALF, high, mask=there & is_query)
        to = cache + ((tl.load(places + row) * 2 * KV_HEADS + head - HEADS) * 2 * HALF)[:, None] + half
        written = there & (head >= HEADS)[:, None]
        tl.store(to, low, mask=written)
        tl.store(to + HALF, high, mask=written)

    @triton.jit
    def _head_kernel(
        x, weight, norm_weight, parts, ids, rows, vocabulary, depth, epsilon, excluded, count,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, EVEN: tl.constexpr,
        EXACT: tl.constexpr,
    ):  # fmt: skip
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
            logits = tl.dot(w, tl.trans(scaled), logits, input_precision=EXACT)
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
    def _read_kernel(logits, parts, ids, rows, vocabulary, stride, excluded, count, COLUMNS: tl.constexpr):
        tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        read = tl.load(logits + row * stride + column, mask=column < vocabulary, other=float("-inf")).to(tl.float32)
        # NaN as infinity, as above.
        read = tl.where(read == read, read, float("inf"))
        read = tl.where(column == excluded, float("-inf"), read)
        best = tl.argmax(read, 0)
        others = tl.where(tl.arange(0, COLUMNS) == best, float("-inf"), read)
        second = tl.max(others, 0)
        rest = tl.sum(tl.where(others == float("-inf"), 0.0, tl.exp(others - second)), 0)
        at = row * count + tile
        tl.store(parts + at, tl.max(read, 0))
        tl.store(parts + rows * count + at, second)
        tl.store(parts + 2 * rows * count + at, rest)
        tl.store(ids + at, tile * COLUMNS + best)

    @triton.jit
    def _choose_kernel(parts, ids, tokens, log_odds, rows, count, COUNT: tl.constexpr):
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
