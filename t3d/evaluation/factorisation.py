"""The factorisation error: what is lost when several tokens of a step are drawn as if they were independent.

Its measure is the conditional total correlation (21) between a state x_t and a later state x_s of full-step decoding,

    TC(x_s | x_t) = E[ log p(x_s | x_t) - sum_i log p(x_s^i | x_t) ],

whose first term follows from the chain of states in between, each of which adds one token (docs/method.md derives it).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from t3d.distillation.examples import Example
from t3d.errors import DataError
from t3d.models.layout import lay_out
from t3d.models.sdar import SDARForCausalLM

_RESAMPLES = 2_000


@dataclass(frozen=True)
class Chain:
    """One full-step rollout as a model sees it.

    `log_p [S, response]` holds log p(x_0^i | x_k) for the states k = 0..S-1, not a number where token i is visible
    already; `step_map [response]` is the step 1..S that committed each token, `blocks [response]` its block.
    """

    log_p: np.ndarray
    step_map: np.ndarray
    blocks: np.ndarray


@torch.inference_mode()
def chains(
    model: SDARForCausalLM,
    examples: Sequence[Example],
    *,
    steps: int,
    block_size: int,
    mask_id: int,
    batch_size: int = 32,
) -> list[Chain]:
    """Score every state of each rollout with `model`: S forwards a batch, all blocks at once.

    Args:
        model: the teacher, or a student on its teacher's rollouts.
        examples: full-step rollouts with step maps.
        steps: S, equal to `block_size`.
        block_size: tokens per block.
        mask_id: id of the mask token.
        batch_size: rollouts scored together; changes memory, not results.

    Raises:
        DataError: a rollout is not full-step, so that its states do not form a chain.
    """
    found = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        layout = lay_out([e.row for e in part], [len(e.prompt_ids) for e in part], block_size).to(model.device)
        step_map = torch.zeros_like(layout.noisy_ids)
        for row, example in enumerate(part):
            if example.step_map is None:
                raise DataError(f"{example.id} has no step map: the factorisation error is measured on rollouts.")
            step_map[row, layout.is_response[row]] = torch.tensor(example.step_map, device=model.device)
        log_p = torch.full((steps, *layout.noisy_ids.shape), float("nan"), device=model.device)
        for step in range(steps):
            masked = layout.is_response & (step_map > step)
            if not masked.any():
                continue
            hidden = layout.hidden_states(model, layout.noisy_ids.masked_fill(masked, mask_id))
            scores = model.lm_head(hidden[masked]).float().log_softmax(dim=-1)
            log_p[step, masked] = scores.gather(1, layout.noisy_ids[masked][:, None]).squeeze(1)
        for row, example in enumerate(part):
            shown = layout.is_response[row]
            chain = Chain(
                log_p[:, row, shown].double().cpu().numpy(),
                step_map[row, shown].cpu().numpy(),
                layout.noisy_blocks[row, shown].cpu().numpy(),
            )
            pairs = set(zip(chain.blocks.tolist(), chain.step_map.tolist(), strict=True))
            if len(pairs) != len(chain.step_map):
                raise DataError(f"{example.id} commits several tokens in one step: the chain needs full-step rollouts.")
            found.append(chain)
    return found


def gaps(chain: Chain, interval: int) -> tuple[float, int]:
    """Sum of log p(x_s | x_t) - sum_i log p(x_s^i | x_t) over a rollout, and the number of its terms.

    Args:
        chain: the rollout.
        interval: decoding interval: x_t are the states 0, d, 2d, .. of each block, x_s the states d steps later.
    """
    starts = (chain.step_map - 1) // interval * interval
    token = np.arange(len(starts))
    joint = chain.log_p[chain.step_map - 1, token]
    factorised = chain.log_p[starts, token]
    terms = len(set(zip(chain.blocks.tolist(), starts.tolist(), strict=True)))
    return float((joint - factorised).sum()), terms


def total_correlation(rollouts: Sequence[Chain], interval: int) -> tuple[float, float, float]:
    """Mean conditional total correlation at a decoding interval, in nats, and its 95 % bootstrap interval.

    Rollouts are drawn anew 2000 times.

    Args:
        rollouts: chains of the same teacher.
        interval: decoding interval, tokens per step.

    Raises:
        DataError: there are no rollouts.
    """
    if not rollouts:
        raise DataError("an interval over zero rollouts does not exist.")
    sums, counts = (
        np.array(column, dtype=float) for column in zip(*(gaps(c, interval) for c in rollouts), strict=True)
    )
    drawn = np.random.default_rng(0).integers(0, len(sums), size=(_RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)
