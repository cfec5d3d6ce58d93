"""The LM head without its logits: what the objectives need of log p(. | x_t), a few positions at a time.

The log-probabilities of 4 096 masked positions over 151 936 tokens are 2.5 GB in float32, and a loss and its gradient
need several tensors of that size. Here a chunk of positions passes through the head, the values that are asked for are
kept, and the logits are dropped. The backward computes them again, which costs one more product with the head (0.3 of
the 2.0 billion parameters of the 1.7B shape) at the masked positions.

Chunks are cut over positions, not over the vocabulary: every term (a token's log-probability, the most probable token,
an inverse-CDF draw, an entropy) then sees whole rows, so one mechanism serves all of them, and a chunk that holds all
positions computes what the head at once would, bit for bit. The price is that the gradient of the weight is added up
once per chunk.

On a GPU and for a large model kernels of our own read log-probabilities, the argmax and what a draw needs off the
logits, and write the gradient in their place (`_read`, `_best`, `_of_groups`, `_gradient`; of two models `_read_both`,
`_gradient_of_both`). Entropies have no such kernels; they make float32 tensors of a chunk's size.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from t3d.models.device import worth_compiling

CHUNK = 2**27
"""Logits that exist at a time: 512 MiB in float32. 883 positions of 151 936 tokens, enough for the head's products to
be bound by arithmetic; of a pocket model's 2 048, 65 536 positions, that is all of a micro-batch."""

_KEPT = 2**30
"""Where kernels are fused and a forward makes no more logits than these, they are kept for the backward: 2 GiB."""
GROUP = 128
"""Tokens of a group: a fused draw finds the group first, then the token in it."""


def log_probabilities(hidden: Tensor, weight: Tensor, tokens: Tensor, chunk: int = CHUNK) -> Tensor:
    """log p of one or several tokens at each position, with gradients for `hidden` and `weight`.

    Args:
        hidden: final hidden states, `[m, hidden]`.
        weight: of the LM head, `[vocabulary, hidden]`; it may be the embedding's.
        tokens: ids, int64, `[k, m]`.
        chunk: most logits at a time.

    Returns:
        float32 `[k, m]`.
    """
    return _Head.apply(hidden, weight, tokens, None, None, None, chunk)[0]


def certainty(
    hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, chunk: int = CHUNK
) -> tuple[Tensor, Tensor, Tensor]:
    """`log_probabilities`, the entropy at `temperature` (nats, with gradients too), and the most probable token.

    Returns:
        float32 `[k, m]`, float32 `[m]` and int64 `[m]`.
    """
    return _Head.apply(hidden, weight, tokens, temperature, None, None, chunk)[:3]


def divergence(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    frozen_hidden: Tensor,
    frozen_weight: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """`log_probabilities` and KL(frozen || model) over the vocabulary (nats), with gradients for the model alone.

    Args:
        hidden: final hidden states of the model, `[m, hidden]`.
        weight: of its LM head, `[vocabulary, hidden]`; it may be the embedding's.
        tokens: ids, int64, `[k, m]`.
        frozen_hidden: those of the frozen model in the same states, `[m, its hidden]`.
        frozen_weight: of its LM head, `[vocabulary, its hidden]`.
        chunk: most logits at a time, both models' together.

    Returns:
        float32 `[k, m]`, and the divergence, float32 `[m]`.
    """
    log_p, _, _, kl = _Head.apply(hidden, weight, tokens, None, frozen_hidden, frozen_weight, chunk)
    return log_p, kl


@torch.no_grad()
def predictions(
    hidden: Tensor, weight: Tensor, tokens: Tensor, uniform: Tensor | None, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """One token per position as the model predicts it, and the log-probabilities of given tokens and of these.

    Args:
        hidden: final hidden states, `[m, hidden]`.
        weight: of the LM head, `[vocabulary, hidden]`.
        tokens: ids, int64, `[m]`.
        uniform: numbers in [0, 1), float64 `[m]`, from which tokens are drawn by inverse CDF; None takes the argmax.
        chunk: most logits at a time.

    Returns:
        The predicted ids, int64 `[m]`, and float32 `[2, m]`: log p of `tokens`, then of the predicted ones.
    """
    predicted = torch.empty_like(tokens)
    log_p = torch.empty(2, len(tokens), device=hidden.device)
    # Cast once: of a frozen weight autocast would make a copy per chunk.
    states, cast = hidden.to(_dtype(weight)), weight.to(_dtype(weight))
    fused = worth_compiling(weight.shape[1], weight.device)
    for part in _parts(len(tokens), weight, chunk, fused):
        if fused:
            logits = linear(states[part], cast)
            log_p[:1, part], total = _fused(_read)(logits, tokens[None, part])
            chosen = _fused(_best)(logits) if uniform is None else _draw_by_group(logits, total, uniform[part])
            predicted[part], log_p[1, part] = chosen, logits.gather(1, chosen[:, None]).squeeze(1).float() - total
            continue
        scores = _scores(states[part], cast)
        predicted[part] = scores.argmax(dim=-1) if uniform is None else _draw(scores, uniform[part])
        log_p[:, part] = _of_tokens(scores, torch.stack([tokens[part], predicted[part]]))
    return predicted, log_p


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, tokens, temperature, frozen_hidden, frozen_weight, chunk):
        # The backward runs outside of autocast and must compute the same logits again.
        ctx.dtype, ctx.temperature, ctx.compared = _dtype(weight), temperature, frozen_hidden is not None
        # Two sets of logits exist at a time.
        ctx.chunk = chunk // 2 if ctx.compared else chunk
        ctx.save_for_backward(hidden, weight, tokens, frozen_hidden, frozen_weight)
        states, cast = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        if ctx.compared:
            frozen_states, frozen_cast = frozen_hidden.to(ctx.dtype), frozen_weight.to(ctx.dtype)
        log_p = torch.empty(tokens.shape, device=hidden.device)
        entropy = log_p.new_empty(log_p.shape[1] if temperature is not None else 0)
        best = tokens.new_empty(len(entropy))
        kl = log_p.new_empty(log_p.shape[1] if ctx.compared else 0)
        ctx.fused = temperature is None and worth_compiling(weight.shape[1], weight.device)
        ctx.totals, ctx.logits = log_p.new_empty((2, len(hidden)) if ctx.fused else (2, 0)), []
        for part in _parts(len(hidden), weight, ctx.chunk, ctx.fused):
            if ctx.fused and ctx.compared:
                pair = linear(states[part], cast), linear(frozen_states[part], frozen_cast)
                log_p[:, part], kl[part], ctx.totals[:, part] = _fused(_read_both)(*pair, tokens[:, part])
                continue
            if ctx.fused:
                logits = linear(states[part], cast)
                log_p[:, part], ctx.totals[0, part] = _fused(_read)(logits, tokens[:, part])
                if len(hidden) * len(weight) <= _KEPT:
                    ctx.logits.append(logits)
                continue
            scores = _scores(states[part], cast)
            log_p[:, part] = _of_tokens(scores, tokens[:, part])
            if temperature is not None:
                entropy[part] = _entropy(scores, temperature)
                best[part] = scores.argmax(dim=-1)
            if ctx.compared:
                kl[part] = _divergence(scores, _scores(frozen_states[part], frozen_cast))
        ctx.mark_non_differentiable(best)
        return log_p, entropy, best, kl

    @staticmethod
    @once_differentiable
    def backward(ctx, log_p_gradient, entropy_gradient, _, kl_gradient):
        hidden, weight, tokens, frozen_hidden, frozen_weight = ctx.saved_tensors
        states, cast = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        if ctx.compared:
            frozen_states, frozen_cast = frozen_hidden.to(ctx.dtype), frozen_weight.to(ctx.dtype)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = None
        for part in _parts(len(hidden), weight, ctx.chunk, ctx.fused):
            if ctx.fused and ctx.compared:
                pair = linear(states[part], cast), linear(frozen_states[part], frozen_cast)
                given = tokens[:, part], log_p_gradient[:, part], kl_gradient[part]
                gradient = _fused(_gradient_of_both)(*pair, ctx.totals[:, part], *given)
            elif ctx.fused:
                logits = ctx.logits.pop(0) if ctx.logits else linear(states[part], cast)
                gradient = _fused(_gradient)(logits, ctx.totals[0, part], tokens[:, part], log_p_gradient[:, part])
            else:
                scores = _scores(states[part], cast)
                gradient = torch.zeros_like(scores)
                for ids, gradients in zip(tokens[:, part], log_p_gradient[:, part], strict=True):
                    gradient.scatter_add_(1, ids[:, None], gradients[:, None])
                if ctx.temperature is not None:
                    gradient += _entropy_gradient(scores, ctx.temperature, entropy_gradient[part])
                if ctx.compared:
                    probability = _scores(frozen_states[part], frozen_cast).exp_()
                    gradient -= probability.mul_(kl_gradient[part, None])
                gradient = torch.ops.aten._log_softmax_backward_data(gradient, scores, 1, torch.float32).to(ctx.dtype)
            hidden_gradient[part] = gradient @ cast
            if not ctx.needs_input_grad[1]:
                continue
            # Summed in the weight's own format: a sum of chunks in bf16 would lose the small ones.
            of_part = (gradient.t() @ states[part]).to(weight.dtype)
            weight_gradient = of_part if weight_gradient is None else weight_gradient.add_(of_part)
        if weight_gradient is None and ctx.needs_input_grad[1]:
            weight_gradient = torch.zeros_like(weight)
        return hidden_gradient, weight_gradient, None, None, None, None, None


def _dtype(weight: Tensor) -> torch.dtype:
    """Of the head's product: autocast's, where it is on."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _parts(positions: int, weight: Tensor, chunk: int, fused: bool) -> Iterator[slice]:
    # Fused, logits exist in half precision and nothing else of their size: as much memory holds four times as many.
    size = max(1, chunk * (4 if fused else 1) // len(weight))
    return (slice(start, min(start + size, positions)) for start in range(0, positions, size))


def _scores(hidden: Tensor, weight: Tensor) -> Tensor:
    """log p of every token, float32 `[positions, vocabulary]`."""
    return linear(hidden, weight).float().log_softmax(dim=-1)


@cache
def _fused(function: Callable) -> Callable:
    """Compiled at the first call, so that importing this module does not wait for the compiler.

    For any number of positions (the last dimension of all but logits) and one vocabulary, since its size divides
    every index.
    """
    compiled = torch.compile(function)

    def call(logits: Tensor, *others: Tensor) -> Any:
        torch._dynamo.maybe_mark_dynamic(logits, 0)
        others = tuple(each.contiguous() for each in others)
        for each in others:
            # Another model's logits, or numbers by position.
            torch._dynamo.maybe_mark_dynamic(each, 0 if each.shape == logits.shape else each.dim() - 1)
        return compiled(logits, *others)

    return call


def _read(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """log p of `tokens [k, positions]`, float32 of the same shape, and the logarithm of each position's total."""
    wide = logits.float()
    total = wide.logsumexp(dim=-1)
    return wide.gather(1, tokens.t()).t() - total, total


def _best(logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1)


def _gradient(logits: Tensor, total: Tensor, tokens: Tensor, gradients: Tensor) -> Tensor:
    """Gradient of the logits, in their format, from that of `log p` of `tokens`, both `[k, positions]`."""
    return _wide_gradient(logits, total, tokens, gradients).to(logits.dtype)


def _wide_gradient(logits: Tensor, total: Tensor, tokens: Tensor, gradients: Tensor) -> Tensor:
    probability = (logits.float() - total[:, None]).exp()
    gradient = -gradients.sum(dim=0)[:, None] * probability
    ids = torch.arange(logits.shape[1], device=logits.device, dtype=torch.int32)
    for chosen, each in zip(tokens.int(), gradients, strict=True):
        gradient = gradient + torch.where(ids == chosen[:, None], each[:, None], 0.0)
    return gradient


def _read_both(logits: Tensor, frozen: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_read`, with KL(frozen || model); both totals, `[2, positions]`."""
    log_p, total = _read(logits, tokens)
    wide = frozen.float()
    frozen_total = wide.logsumexp(dim=-1)
    of_frozen = wide - frozen_total[:, None]
    kl = (of_frozen.exp() * (of_frozen - (logits.float() - total[:, None]))).sum(dim=-1)
    return log_p, kl, torch.stack([total, frozen_total])


def _gradient_of_both(
    logits: Tensor, frozen: Tensor, totals: Tensor, tokens: Tensor, gradients: Tensor, of_kl: Tensor
) -> Tensor:
    """As `_gradient`, with that of KL(frozen || model) `[positions]`."""
    difference = (logits.float() - totals[0][:, None]).exp() - (frozen.float() - totals[1][:, None]).exp()
    return (_wide_gradient(logits, totals[0], tokens, gradients) + of_kl[:, None] * difference).to(logits.dtype)


def _of_groups(logits: Tensor, total: Tensor) -> Tensor:
    """The probability of every `GROUP` tokens together, float64 `[positions, groups]`."""
    probability = pad((logits.float() - total[:, None]).exp(), (0, -logits.shape[1] % GROUP))
    return probability.unflatten(1, (-1, GROUP)).sum(dim=-1, dtype=torch.float64)


def _draw_by_group(logits: Tensor, total: Tensor, uniform: Tensor) -> Tensor:
    """As `_draw`, without a cumulative sum over the vocabulary: over its groups, then in the one that is drawn."""
    return draw_in_groups(logits, _fused(_of_groups)(logits, total), uniform, lambda each: each - total[:, None])


def draw_in_groups(
    logits: Tensor,
    sums: Tensor,
    uniform: Tensor,
    score: Callable[[Tensor], Tensor],
    excluded: int = -1,
) -> Tensor:
    """Inverse-CDF draws in two levels: first a group of tokens is drawn, then one of its tokens.

    Args:
        logits: `[n, vocabulary]`, any float format.
        sums: exp(score) summed over each group of `GROUP` tokens, `[n, groups]`, float64.
        uniform: numbers in [0, 1), float64 `[n]`.
        score: makes scores, float32, of the logits of a group, `[n, GROUP]`.
        excluded: id that is never drawn, or below 0.

    Returns:
        Ids, int64 `[n]`.
    """
    cumulative, last = sums.cumsum(dim=-1), logits.shape[1] - 1
    target = uniform[:, None] * cumulative[:, -1:]
    group = torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[1] - 1)
    target = target - torch.where(group > 0, cumulative.gather(1, (group - 1).clamp(min=0)), 0.0)
    columns = group * GROUP + torch.arange(GROUP, device=logits.device)
    there = (columns <= last) & (columns != excluded)
    scores = score(logits.gather(1, columns.clamp(max=last)).float())
    inside = torch.where(there, scores.exp(), 0.0).double().cumsum(dim=-1)
    # Where rounding leaves the target behind the last token that can be drawn, it is that one.
    target = torch.minimum(target, inside[:, -1:] * (1 - 1e-12))
    tokens = group * GROUP + torch.searchsorted(inside, target, right=True)
    # Not among the tokens only where a logit is NaN.
    return tokens[:, 0].clamp(max=last)


def _of_tokens(scores: Tensor, tokens: Tensor) -> Tensor:
    return scores.gather(1, tokens.t()).t()


def _draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF draws; float64, since in float32 a sum over 151 936 tokens misses the rare ones."""
    cumulative = scores.double().exp_().cumsum_(dim=-1)
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)
    return drawn.clamp(max=scores.shape[1] - 1)


def _entropy(scores: Tensor, temperature: float) -> Tensor:
    tempered = (scores / temperature).log_softmax(dim=-1)
    return -(tempered.exp() * tempered).sum(dim=-1)


def _divergence(scores: Tensor, frozen_scores: Tensor) -> Tensor:
    return (frozen_scores.exp() * (frozen_scores - scores)).sum(dim=-1)


def _entropy_gradient(scores: Tensor, temperature: float, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        entropy = _entropy(leaf, temperature)
    return torch.autograd.grad(entropy, leaf, gradient)[0]
