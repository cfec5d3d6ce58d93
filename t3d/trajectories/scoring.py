"""Log-probabilities that a model gives the tokens of recorded rollouts, in the states that decoding went through.

State k of a rollout (k = 0..S-1) is what was visible before step k + 1: of each block what was committed in the first k
steps, and all blocks before. The training layout computes one state of every block in one forward, so S forwards score
a batch of rollouts. Probabilities are those of training, over the whole vocabulary; the decoder leaves out the mask.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t3d.models.layout import lay_out
from t3d.models.lm_head import log_probabilities
from t3d.models.sdar import SDARForCausalLM
from t3d.trajectories.record import Trajectory


def scores(model: SDARForCausalLM, trajectories: Sequence[Trajectory], **options: Any) -> list[float]:
    """Score rollouts: (1 / n) sum_i log p(x_0^i | state pi_i - 1) over the n response tokens, in nats.

    Token i, committed in step pi_i, is looked up in the state in which it was committed.

    Args:
        model: the teacher.
        trajectories: the rollouts, of any model.
        options: the other arguments of `in_states`.

    Returns:
        One number per rollout, in their order; log-probabilities are float32, their mean is taken in float64.
    """
    means = []
    found = in_states(model, trajectories, committed_only=True, **options)
    for trajectory, log_p in zip(trajectories, found, strict=True):
        committed = log_p.gather(0, torch.tensor(trajectory.step_map)[None] - 1)
        means.append(committed.double().mean().item())
    return means


@torch.inference_mode()
def in_states(
    model: SDARForCausalLM,
    trajectories: Sequence[Trajectory],
    *,
    block_size: int,
    steps: int,
    mask_id: int,
    batch_size: int = 8,
    committed_only: bool = False,
    on_finished: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """log p(x_0^i | state k) for the masked tokens of each state of each rollout.

    Args:
        model: a teacher or a student, in `eval` mode.
        trajectories: the rollouts, of any model.
        block_size: tokens per block of the rollouts.
        steps: S, steps per block.
        mask_id: id of the mask token.
        batch_size: rollouts scored together; changes results by rounding alone.
        committed_only: look up only the tokens that step k + 1 commits.
        on_finished: called with the number of rollouts that were scored, for progress.

    Returns:
        For each rollout, in their order, float32 `[S, response]` on the CPU; NaN where nothing was looked up.
    """
    rows = [np.array(t.prompt_ids + t.response_ids) for t in trajectories]
    # Those of like length share a batch, so that little of it is padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        prompts = [len(trajectories[i].prompt_ids) for i in chosen]
        layout = lay_out([rows[i] for i in chosen], prompts, block_size).to(model.device)
        step_map = layout.at_responses(trajectories[i].step_map for i in chosen)
        log_p = torch.full((steps, *step_map.shape), float("nan"), device=model.device)
        for step in range(steps):
            masked = step_map > step
            asked = step_map == step + 1 if committed_only else masked
            if asked.any():
                hidden = layout.hidden_states(model, layout.noisy_ids.masked_fill(masked, mask_id))
                tokens = layout.noisy_ids[asked][None]
                log_p[step, asked] = log_probabilities(hidden[asked], model.lm_head.weight, tokens)[0]
        for row, i in enumerate(chosen):
            found[i] = log_p[:, row, layout.is_response[row]].cpu()
        if on_finished is not None:
            on_finished(len(chosen))
    return found
