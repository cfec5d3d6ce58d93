"""Which masked positions a denoising step commits: static quota or dynamic threshold.

Both commit masked positions only and never more than are left, so a visible token never changes, whatever the budget
and wherever the prompt ends in the first block (the prompt guard, which can be switched off).
"""

import torch
from torch import Tensor

from t3d.params import Budget


def quota(budget: Budget, step: Tensor) -> Tensor:
    """Tokens that static remasking commits in `step` (1..S): B/S, the remainder in the first steps."""
    assert budget.steps is not None
    share, remainder = divmod(budget.block_size, budget.steps)
    return share + (step <= remainder).long()


def choose(log_odds: Tensor, masked: Tensor, budget: Budget, step: Tensor, guard: bool = True) -> Tensor:
    """Positions to commit, bool `[batch, block]`.

    Args:
        log_odds: confidence log(p / (1 - p)) of the drawn token at each position, `[batch, block]`.
        masked: positions still masked, bool `[batch, block]`.
        budget: static: the most confident masked positions up to the step's quota; dynamic: every masked position whose
            confidence exceeds the threshold, at least one.
        step: the row's denoising step within its block, 1.., int `[batch]`.
        guard: False lets a quota larger than the masks left spill over to visible positions, left first, as in the
            released code.
    """
    if budget.steps == 1 and guard:
        return masked  # all at once: on a GPU, sorting them first is a dozen kernels
    scores = log_odds.masked_fill(~masked, float("-inf"))
    # A stable sort breaks ties by position, left first.
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    if budget.steps is not None:
        chosen = rank < quota(budget, step)[:, None]
        return chosen & (masked if guard else masked.any(dim=1, keepdim=True))
    return masked & ((log_odds > threshold(budget)) | (rank == 0))


def threshold(budget: Budget) -> float:
    """The log-odds above which dynamic remasking commits."""
    return torch.logit(torch.tensor(budget.threshold, dtype=torch.float64)).item()
