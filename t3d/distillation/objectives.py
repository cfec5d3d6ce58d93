"""The losses, one function per row of the paper's tables. Equation numbers are those of arXiv 2602.12262 v1.

log p of a sample is the mean over its masked positions of log p(x_0^i | x_t): the scale of beta and lambda does then
not depend on how many tokens are masked. All tensors are float32; a loss is the mean over the batch's samples.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def sft(log_p: Tensor, masked: Tensor) -> Tensor:
    """Random masks on gold answers: -E log p_theta(x_0 | x_t)."""
    return _negative_log_likelihood(log_p, masked)


def redi(log_p: Tensor, masked: Tensor) -> Tensor:
    """Random, independent masks on the teacher's own text (16): -E log p_theta(x_0 | x_t)."""
    return _negative_log_likelihood(log_p, masked)


def naive_td(log_p: Tensor, masked: Tensor) -> Tensor:
    """Forward KL on trajectory states (5): -E log p_theta(x_0 | x_t) with (x_0, x_t) from one rollout."""
    return _negative_log_likelihood(log_p, masked)


def ddo_real(log_ratio: Tensor, beta: float) -> Tensor:
    """First term of trajectory DDO (6): -log sigmoid(beta * log p_theta(x_0|x_t) / p_ref(x_0|x_t)), x_0 the teacher's.

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


def path(log_p: Tensor, masked: Tensor, step_map: Tensor, steps: int) -> Tensor:
    """Path consistency (8), (9): -E sum_i w_i log p_theta(x_0^i | x_t), w_i = (S - pi_i + 1) / S.

    Tokens committed early weigh more, because their errors spread. As in the other terms the sum over positions is a
    mean.

    Args:
        log_p: log p_theta(x_0^i | x_t), `[batch, N]`.
        masked: positions in the loss, bool `[batch, N]`.
        step_map: pi_i in 1..S, `[batch, N]`.
        steps: S.
    """
    weights = (steps - step_map + 1) / steps
    return _negative_log_likelihood(weights * log_p, masked)


def t3d(real: Tensor, fake: Tensor, path_term: Tensor, alpha: float, path_weight: float) -> Tensor:
    """Total (10): L_traj-DDO + lambda * L_path, with alpha on DDO's fake term (general DDO, arXiv 2503.01103)."""
    return real + alpha * fake + path_weight * path_term


def sample_mean(values: Tensor, masked: Tensor) -> Tensor:
    """Mean over the masked positions of each sample, `[batch, N] -> [batch]`; 0 for a sample with none."""
    return torch.where(masked, values, 0.0).sum(dim=1) / masked.sum(dim=1).clamp(min=1)


def _negative_log_likelihood(log_p: Tensor, masked: Tensor) -> Tensor:
    return -sample_mean(log_p, masked).mean()
