"""The losses, one function per row of the paper's tables. Equation numbers are those of arXiv 2602.12262 v1.

Arguments that all of them share: `log_p [batch, N]` is log p_theta(x_0^i | x_t), `masked [batch, N]` the positions in
the loss, and `reduce` turns token values into one value per sample. It is the mean over the sample's masked positions
(`sample_mean`, so that beta and lambda mean the same however many tokens are masked) or their sum (`sample_sum`, the
equations read literally). A loss is the mean over the batch's samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Reduce = Callable[[Tensor, Tensor], Tensor]


def sample_sum(values: Tensor, masked: Tensor) -> Tensor:
    """Sum over the masked positions of each sample, `[batch, N] -> [batch]`."""
    return torch.where(masked, values, 0.0).sum(dim=1)


def sample_mean(values: Tensor, masked: Tensor) -> Tensor:
    """Mean over the masked positions of each sample, `[batch, N] -> [batch]`; 0 for a sample with none."""
    return sample_sum(values, masked) / masked.sum(dim=1).clamp(min=1)


def sft(log_p: Tensor, masked: Tensor, reduce: Reduce = sample_mean) -> Tensor:
    """Random masks on gold answers: -E log p_theta(x_0 | x_t)."""
    return -reduce(log_p, masked).mean()


def redi(log_p: Tensor, masked: Tensor, reduce: Reduce = sample_mean) -> Tensor:
    """Random, independent masks on the teacher's own text (16): -E log p_theta(x_0 | x_t)."""
    return -reduce(log_p, masked).mean()


def naive_td(log_p: Tensor, masked: Tensor, reduce: Reduce = sample_mean) -> Tensor:
    """Forward KL on trajectory states (5): -E log p_theta(x_0 | x_t) with (x_0, x_t) from one rollout."""
    return -reduce(log_p, masked).mean()


def dparallel(log_p: Tensor, masked: Tensor, reduce: Reduce = sample_mean) -> Tensor:
    """From masked blocks to the teacher's text: -E log p_theta(x_0 | x_t).

    The official recipe adds 2 x `certainty_forcing`.
    """
    return -reduce(log_p, masked).mean()


def certainty_forcing(entropy: Tensor, masked: Tensor, correct: Tensor, reduce: Reduce = sample_mean) -> Tensor:
    """dParallel's second term, which any loss can have: E H(p_theta(. | x_t)) of what is already predicted right.

    It makes the student certain of what it knows.

    Args:
        entropy: of the tempered distribution at each position, `[batch, N]`.
        masked: see the module's head.
        correct: whether the most probable token is the teacher's, bool `[batch, N]`.
        reduce: see the module's head.
    """
    return reduce(entropy, masked & correct).mean()


def ddo_real(log_ratio: Tensor, beta: float) -> Tensor:
    """First term of (6): -log sigmoid(beta * log p_theta(x_0|x_t) / p_ref(x_0|x_t)), x_0 the teacher's.

    Args:
        log_ratio: per sample, `[batch]`.
        beta: scale of the log-ratio.
    """
    return -logsigmoid(beta * log_ratio).mean()


def ddo_fake(log_ratio: Tensor, beta: float) -> Tensor:
    """Second term of (6): -log(1 - sigmoid(beta * log-ratio)), x_0 the reference's own one-step prediction.

    Computed as -log sigmoid(-z), which keeps its range where 1 - sigmoid(z) rounds to 0.
    """
    return -logsigmoid(-beta * log_ratio).mean()


def ddo(real: Tensor, fake: Tensor, alpha: float) -> Tensor:
    """Trajectory DDO (6), (7), with alpha on its fake term (general DDO, arXiv 2503.01103)."""
    return real + alpha * fake


def path_weights(step_map: Tensor, steps: int, kind: str = "equation") -> Tensor:
    """How much a token of the path term weighs, by the step pi_i in 1..S that committed it, `[batch, N]`.

    `equation` is (9), w_i = (S - pi_i + 1) / S; `released` has two levels, 0.75 for the first half of the steps and
    0.25 for the second.
    """
    if kind == "released":
        return torch.where(2 * step_map <= steps, 0.75, 0.25)
    return (steps - step_map + 1) / steps


def path(log_p: Tensor, masked: Tensor, weights: Tensor, reduce: Reduce = sample_mean) -> Tensor:
    """Path consistency (8): -E sum_i w_i log p_theta(x_0^i | x_t); early tokens weigh more, as their errors spread."""
    return -reduce(weights * log_p, masked).mean()


def t3d(ddo_term: Tensor, path_term: Tensor, path_weight: float) -> Tensor:
    """Total (10): L_traj-DDO + lambda * L_path."""
    return ddo_term + path_weight * path_term
