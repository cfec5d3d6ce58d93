"""How the engine draws tokens: like `sampling.draw`, but on a GPU the passes over a large vocabulary are fused."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from t3d.decoding import sampling
from t3d.models import lm_head
from t3d.params import Sampling

Draw = Callable[..., tuple[Tensor, Tensor]]
"""Logits `[n, vocabulary]`, id of the mask, sampling, and seed, position and step of each -> tokens, log-odds."""


def of(sample: Sampling, compiled: bool) -> Draw:
    """The function that draws tokens. A compiled one reads the logits a few times and writes nothing of their size.

    PyTorch 2.11 can compile neither the whole draw nor a draw of a single position; `plain` makes the latter. At
    temperature 0 `few_rows` has kernels.
    """
    grouped = sample.temperature and not sample.top_k and sample.top_p == 1 and sample.confidence == "model"
    return _in_compiled_groups if compiled and grouped else plain


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

    The passes over the vocabulary can be fused, and nothing of its size is written: in float64 the distribution of 1024
    positions and its running sum take 2.5 GB. On an H200 `sampling.draw` takes 7.2 ms and this 1.7 ms. Its sums are in
    float32, so that 1 token of 1024 differed.

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
    uniform = sampling.hashed_uniform(seeds, positions, step)
    # Where a logit is NaN, the log-odds show it.
    tokens = lm_head.draw_in_groups(logits, sums.double(), uniform, lambda each: each / temperature - top, excluded)
    return tokens, fuse(_log_odds)(logits, excluded, tokens)


def _group_sums(logits: Tensor, excluded: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The largest score of each row, `[n, 1]`, and the sums of exp(score - largest) over groups of tokens."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    scores = logits.float().masked_fill(columns == excluded, float("-inf")) / temperature
    top = scores.amax(dim=-1, keepdim=True)
    weights = (scores - top).exp()
    missing = -logits.shape[1] % lm_head.GROUP
    if missing:
        weights = torch.nn.functional.pad(weights, (0, missing))
    return top, weights.view(len(logits), -1, lm_head.GROUP).sum(dim=-1)


def _log_odds(logits: Tensor, excluded: int, tokens: Tensor) -> Tensor:
    columns = torch.arange(logits.shape[1], device=logits.device)
    logits = logits.float()
    left_out = (columns == excluded) | (columns == tokens[:, None])
    others = logits.masked_fill(left_out, float("-inf")).logsumexp(dim=-1)
    return logits.gather(1, tokens[:, None])[:, 0] - others
