"""Drawing tokens: greedy, or by temperature, top-k and top-p from numbers that depend on the item alone.

Every random number is a hash of (item seed, position, step), so a token depends neither on batch size nor on order nor
on the device.
"""

import torch
from torch import Tensor

from t3d.params import Sampling


def draw(logits: Tensor, sampling: Sampling, seeds: Tensor, positions: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a token at every position and measure the model's confidence in it.

    Args:
        logits: `[..., vocabulary]`, float32.
        sampling: how to draw.
        seeds: seed of each position's item, int64, broadcastable to `[...]`.
        positions: global position of each token, int64, broadcastable to `[...]`.
        step: denoising step within the block, int64, broadcastable to `[...]`.

    Returns:
        tokens `[...]` and their log-odds log(p / (1 - p)) `[...]` under the model's own, untempered distribution (or
        the tempered one, `sampling.confidence`).
        Log-odds order tokens as p does but do not saturate: two confidences that both round to 1.0 in float32 stay
        ordered, so the order of commitment does not hang on rounding.
    """
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        probabilities = tempered(logits, sampling)
        uniform = hashed_uniform(seeds, positions, step).expand(logits.shape[:-1]).unsqueeze(-1)
        cumulative = probabilities.cumsum(dim=-1)
        tokens = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True).squeeze(-1)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    if sampling.confidence == "tempered" and sampling.temperature:
        logits = logits / sampling.temperature
    chosen = logits.gather(-1, tokens.unsqueeze(-1))
    columns = torch.arange(logits.shape[-1], device=logits.device)
    others = logits.masked_fill(columns == tokens.unsqueeze(-1), float("-inf")).logsumexp(dim=-1)
    return tokens, chosen.squeeze(-1) - others


def confidence(log_odds: Tensor) -> Tensor:
    """Probabilities of log-odds; NaN where a logit was NaN or infinite, which the log-odds show.

    `request.checked` finds the NaN, so that nobody has to look at the logits of every step.
    """
    return torch.where(log_odds.isfinite(), log_odds.sigmoid(), torch.nan)


def tempered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities `[..., vocabulary]` after temperature, top-k and top-p (nucleus), in float64."""
    scores = logits.double() / sampling.temperature
    if sampling.top_k and sampling.top_k < scores.shape[-1]:
        kept = scores.topk(sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < kept, float("-inf"))
    probabilities = scores.softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
        ordered = ordered.masked_fill(outside, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    return probabilities


def hashed_uniform(seeds: Tensor, positions: Tensor, step: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, a pure function of (seed, position, step): splitmix64's finaliser, twice."""
    mixed = _splitmix(seeds + positions * 0x632BE59BD9B4E019 + step * 0x1D8E4E27C47D124F)
    return _shift(_splitmix(mixed), 11).double() * 2.0**-53


def _splitmix(x: Tensor) -> Tensor:
    # int64 multiplication wraps, as the unsigned original does; only the shifts need care.
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
