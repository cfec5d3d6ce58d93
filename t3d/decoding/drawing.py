"""How the engine draws tokens: as `sampling.draw`, with what passes over a large vocabulary fused on a GPU."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from t3d.decoding import sampling
from t3d.params import Sampling

_GROUP = 128
"""Tokens of a group of `in_groups`."""
Draw = Callable[..., tuple[Tensor, Tensor]]
"""Logits `[n, vocabulary]`, id of the mask, sampling, and seed, position and step of each -> tokens, log-odds."""


def of(sample: Sampling, compiled: bool) -> Draw:
    """What draws tokens. Compiled, logits of a large vocabulary are read a few times and never written.

    PyTorch 2.11 cannot compile the whole draw at a temperature. `compiled` must be false for a single position, for
    which it can compile none.
    """
    if not compiled:
        return plain
    if not sample.temperature:
        # Not a method of the engine: what is compiled stays, and with it the cache of `self`.
        return torch.compile(plain)
    grouped = not sample.top_k and sample.top_p == 1 and sample.confidence == "model"
    return _in_compiled_groups if grouped else plain


def plain(
    logits: Tensor, mask_id: int, sample: Sampling, seeds: Tensor, positions: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    """`sampling.draw`; the mask is an input, never an answer."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.float().masked_fill(columns == mask_id, float("-inf"))
    return sampling.draw(logits, sample, seeds, positions, step)


def _in_compiled_groups(
    logits: Tensor, mask_id: int, sample: Sampling, seeds: Tensor, positions: Tensor, step: Tensor
) -> tuple[Tensor, Tensor]:
    return in_groups(logits, mask_id, sample.temperature, seeds, positions, step, _compiled)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def in_groups(
    logits: Tensor,
    excluded: int,
    temperature: float,
    seeds: Tensor,
    positions: Tensor,
    step: Tensor,
    fuse: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> tuple[Tensor, Tensor]:
    """`sampling.draw` at a temperature, without top-k and top-p: first a group of tokens is drawn, then one of these.

    What passes over the vocabulary can be fused and is never written: in float64 the distribution of 1024 positions and
    its running sum are 2.5 GB. On an H200 these take 7.2 ms and this 1.7; sums in float32 gave 1 of 1024 another token.

    Args:
        logits: `[n, vocabulary]`, any float format.
        excluded: id that is never drawn, or below 0.
        temperature: above 0.
        seeds: as in `sampling.draw`, `[n]`.
        positions: as in `sampling.draw`, `[n]`.
        step: as in `sampling.draw`, `[n]`.
        fuse: compiles a function, or returns it as it is.
    """
    top, sums = fuse(_group_sums)(logits, excluded, temperature)
    cumulative = sums.double().cumsum(dim=-1)
    target = sampling.hashed_uniform(seeds, positions, step)[:, None] * cumulative[:, -1:]
    group = torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[1] - 1)
    target = target - torch.where(group > 0, cumulative.gather(1, (group - 1).clamp(min=0)), 0.0)
    columns = group * _GROUP + torch.arange(_GROUP, device=logits.device)
    there = (columns < logits.shape[1]) & (columns != excluded)
    inside = logits.gather(1, columns.clamp(max=logits.shape[1] - 1)).float() / temperature - top
    inside = torch.where(there, inside.exp(), 0.0).double().cumsum(dim=-1)
    # Where rounding leaves the target behind the last token that can be drawn, it is that one.
    target = torch.minimum(target, inside[:, -1:] * (1 - 1e-12))
    tokens = group * _GROUP + torch.searchsorted(inside, target, right=True)
    # Not among the tokens only where a logit is not a number, which the log-odds show.
    tokens = tokens[:, 0].clamp(max=logits.shape[1] - 1)
    return tokens, fuse(_log_odds)(logits, excluded, tokens)


def _group_sums(logits: Tensor, excluded: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The largest score of each row, `[n, 1]`, and the sums of exp(score - largest) over groups of `_GROUP` tokens."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    scores = logits.float().masked_fill(columns == excluded, float("-inf")) / temperature
    top = scores.amax(dim=-1, keepdim=True)
    weights = (scores - top).exp()
    missing = -logits.shape[1] % _GROUP
    if missing:
        weights = torch.nn.functional.pad(weights, (0, missing))
    return top, weights.view(len(logits), -1, _GROUP).sum(dim=-1)


def _log_odds(logits: Tensor, excluded: int, tokens: Tensor) -> Tensor:
    columns = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.float()
    left_out = (columns == excluded) | (columns == tokens[:, None])
    others = logits.masked_fill(left_out, float("-inf")).logsumexp(dim=-1)
    return logits.gather(1, tokens[:, None])[:, 0] - others
