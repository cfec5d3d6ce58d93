"""How likely a teacher finds a rollout: the mean log-probability of its tokens, each as it was committed.

Token i of step pi_i is looked up in state pi_i - 1 of the rollout's own step map: of its block, what was committed in
earlier steps is visible, and so are all blocks before. The training layout computes one state of every block in one
forward, so S forwards score a batch of rollouts. Probabilities are those of training, over the whole vocabulary; the
decoder leaves out the mask.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from t3d.models.layout import lay_out
from t3d.models.lm_head import log_probabilities
from t3d.models.sdar import SDARForCausalLM
from t3d.trajectories.record import Trajectory


@torch.inference_mode()
def scores(
    model: SDARForCausalLM,
    trajectories: Sequence[Trajectory],
    *,
    block_size: int,
    steps: int,
    mask_id: int,
    batch_size: int = 8,
    on_finished: Callable[[int], None] | None = None,
) -> list[float]:
    """Score rollouts: (1 / n) sum_i log p(x_0^i | state pi_i - 1) over the n response tokens, in nats.

    Args:
        model: the teacher, in `eval` mode.
        trajectories: the rollouts, whoever decoded them.
        block_size: tokens per block of the rollouts.
        steps: S, steps per block.
        mask_id: id of the mask token.
        batch_size: rollouts scored together; changes a score by rounding alone.
        on_finished: called with the number of rollouts that were scored, for progress.

    Returns:
        One number per rollout, in their order; log-probabilities are float32, their mean is taken in float64.
    """
    # Those of like length share a batch, so that little of it is padding.
    order = sorted(
        range(len(trajectories)), key=lambda i: len(trajectories[i].prompt_ids + trajectories[i].response_ids)
    )
    found = [0.0] * len(trajectories)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        part = [trajectories[i] for i in chosen]
        rows = [np.array(t.prompt_ids + t.response_ids) for t in part]
        layout = lay_out(rows, [len(t.prompt_ids) for t in part], block_size).to(model.device)
        step_map = layout.at_responses(trajectory.step_map for trajectory in part)
        log_p = torch.zeros(step_map.shape, dtype=torch.float64, device=model.device)
        for step in range(1, steps + 1):
            committed = step_map == step
            if not committed.any():
                continue
            hidden = layout.hidden_states(model, layout.noisy_ids.masked_fill(step_map >= step, mask_id))
            tokens = layout.noisy_ids[committed][None]
            log_p[committed] = log_probabilities(hidden[committed], model.lm_head.weight, tokens)[0].double()
        means = log_p.sum(dim=1) / layout.is_response.sum(dim=1)
        for i, mean in zip(chosen, means.tolist(), strict=True):
            found[i] = mean
        if on_finished is not None:
            on_finished(len(part))
    return found
