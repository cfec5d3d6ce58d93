"""Training states x_t: which tokens of a response are visible, masked, or replaced by a random token.

Every state is drawn from (seed, epoch, example id) alone: fresh each epoch, and the same whatever the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t3d.distillation.examples import Example
from t3d.models.layout import Layout, lay_out
from t3d.params import States
from t3d.seeds import seed_for


@dataclass(frozen=True)
class Batch:
    """A batch of states in the training layout.

    `noisy_input [batch, N]` is x_t; `masked [batch, N]` marks the positions in the loss (masked, or holding a random
    token); `step_map [batch, N]` is 0 where there is none; `seeds [batch]` belong to (seed, epoch, example).
    """

    ids: list[str]
    layout: Layout
    noisy_input: Tensor
    masked: Tensor
    step_map: Tensor
    seeds: Tensor


def draw_batch(
    examples: Sequence[Example],
    epochs: Sequence[int],
    states: States,
    *,
    steps: int,
    block_size: int,
    mask_id: int,
    vocabulary: int,
    seed: int,
    device: str = "cpu",
) -> Batch:
    """Draw the state of each example.

    Args:
        examples: the rows.
        epochs: the epoch of each row.
        states: how to draw.
        steps: S of the step maps, for trajectory states.
        block_size: tokens per block.
        mask_id: id of the mask token.
        vocabulary: random tokens are drawn uniformly from the ids below this.
        seed: the student's seed.
        device: where the tensors go.
    """
    layout = lay_out([e.row for e in examples], [len(e.prompt_ids) for e in examples], block_size)
    is_response = layout.is_response.numpy()
    masked = np.zeros_like(is_response)
    random_ids = np.full(is_response.shape, -1)
    step_map = np.zeros(is_response.shape, dtype=np.int64)
    seeds = [seed_for(seed, "state", epoch, example.id) for example, epoch in zip(examples, epochs, strict=True)]
    for row, (example, item_seed) in enumerate(zip(examples, seeds, strict=True)):
        rng = np.random.default_rng(item_seed)
        columns = np.flatnonzero(is_response[row])
        if example.step_map is not None:
            step_map[row, columns] = example.step_map
        if states.kind == "trajectory":
            chosen = trajectory_mask(np.array(example.step_map), steps, draw_ratio(states, rng))
        else:
            chosen = random_mask(len(columns), rng)
        masked[row, columns] = chosen
        swapped = chosen & (rng.random(len(columns)) < states.random_tokens)
        random_ids[row, columns[swapped]] = rng.integers(0, vocabulary, swapped.sum())
    noisy = np.where(masked, np.where(random_ids >= 0, random_ids, mask_id), layout.noisy_ids.numpy())

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Batch(
        ids=[example.id for example in examples],
        layout=layout.to(device),
        noisy_input=tensor(noisy),
        masked=tensor(masked),
        step_map=tensor(step_map),
        seeds=torch.tensor(seeds, device=device),
    )


def draw_ratio(states: States, rng: np.random.Generator) -> float:
    """Draw the share of a block that is still masked, one per sample."""
    levels = states.level_distribution()
    return float(rng.choice(list(levels), p=list(levels.values())))


def trajectory_mask(step_map: np.ndarray, steps: int, ratio: float) -> np.ndarray:
    """Masked positions of a trajectory state, bool `[response]`.

    A token is visible if the teacher had committed it by step s = round((1 - ratio) * steps); ratio 1 masks all.
    """
    return step_map > round((1 - ratio) * steps)


def random_mask(length: int, rng: np.random.Generator) -> np.ndarray:
    """Masked positions of a random state, bool `[length]`: t ~ U(0, 1), each token masked with probability t, (16).

    At least one token is masked, so that every sample has a loss.
    """
    masked = rng.random(length) < rng.random()
    masked[rng.integers(length)] |= not masked.any()
    return masked
