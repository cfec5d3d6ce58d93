"""Training states x_t: which tokens of a response are visible, masked, or replaced by a random token.

Every state is drawn from (seed, epoch, example id) alone: fresh each epoch, and the same whatever the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t3d.distillation.examples import Example
from t3d.models.device import send
from t3d.models.layout import Layout, lay_out
from t3d.params import States
from t3d.seeds import seed_for


@dataclass(frozen=True)
class Batch:
    """A batch of states in the training layout.

    `noisy_input [batch, N]` is x_t; `masked [batch, N]` marks the positions in the loss (masked, or holding a random
    token), `places [masked positions]` says where they are in `batch * N`; `step_map [batch, N]` is 0 where there is
    none; `seeds [batch]` belong to (seed, epoch, example).
    """

    ids: list[str]
    layout: Layout
    noisy_input: Tensor
    masked: Tensor
    places: Tensor
    step_map: Tensor
    seeds: Tensor

    def at_masked(self, values: Tensor) -> Tensor:
        """The `values [batch, N, ...]` at the masked positions. Unlike a boolean mask, this does not wait for a GPU."""
        return values.flatten(0, 1)[self.places]


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
    block_grid: str = "global",
    device: str = "cpu",
    packed: bool = False,
) -> Batch:
    """Draw the state of each example; with `states.complement` two of them, all states first, then all complements.

    Args:
        examples: the rows.
        epochs: the epoch of each row.
        states: how to draw.
        steps: S of the step maps, for trajectory states.
        block_size: tokens per block.
        mask_id: id of the mask token.
        vocabulary: random tokens are drawn uniformly from the ids below this.
        seed: the student's seed.
        block_grid: `global` or `response`, see `lay_out`.
        device: where the tensors go.
        packed: for a model that takes rows end to end (`models/packed.py`).
    """
    views = (False, True) if states.complement else (False,)
    rows = [
        (example, epoch, complement) for complement in views for example, epoch in zip(examples, epochs, strict=True)
    ]
    layout = lay_out(
        [example.row for example, _, _ in rows],
        [len(example.prompt_ids) for example, _, _ in rows],
        block_size,
        block_grid,
        [example.left_out for example, _, _ in rows],
    )
    is_response = layout.is_response.numpy()
    blocks = layout.noisy_blocks.numpy()
    masked = np.zeros_like(is_response)
    random_ids = np.full(is_response.shape, -1)
    step_map = np.zeros(is_response.shape, dtype=np.int64)
    seeds = []
    for row, (example, epoch, complement) in enumerate(rows):
        seeds.append(seed_for(seed, "state", epoch if states.redraw == "epoch" else 0, example.id))
        rng = np.random.default_rng(seeds[-1])
        columns = np.flatnonzero(is_response[row])
        if example.step_map is not None:
            step_map[row, columns] = example.step_map
        chosen = draw_mask(states, step_map[row, columns], example.confidence, blocks[row, columns], steps, rng)
        masked[row, columns] = chosen = ~chosen if complement else chosen
        swapped = chosen & (rng.random(len(columns)) < states.random_tokens)
        random_ids[row, columns[swapped]] = rng.integers(0, vocabulary, swapped.sum())
    noisy = np.where(masked, np.where(random_ids >= 0, random_ids, mask_id), layout.noisy_ids.numpy())

    def tensor(array: np.ndarray) -> Tensor:
        return send(torch.from_numpy(array), device)

    return Batch(
        ids=[example.id for example, _, _ in rows],
        layout=layout.to(device, packed),
        noisy_input=tensor(noisy),
        masked=tensor(masked),
        places=tensor(np.flatnonzero(masked)),
        step_map=tensor(step_map),
        seeds=tensor(np.array(seeds)),
    )


def draw_mask(
    states: States,
    step_map: np.ndarray,
    confidence: Sequence[float] | None,
    blocks: np.ndarray,
    steps: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Masked positions of one state, bool `[response]`, from each token's step, confidence and block number."""
    if states.kind == "full":
        return np.ones(len(blocks), dtype=bool)
    if states.kind == "random":
        return random_mask(len(blocks), rng)
    block = blocks - blocks[:1]
    if states.kind == "block":
        return block_mask(block, rng)
    draws = 1 if states.mask_ratio_per == "sample" else block.max() + 1
    if states.threshold is not None:
        assert confidence is not None
        forwards, counts = dynamic_forwards(step_map, np.asarray(confidence), block, states.threshold)
        return forwards >= np.floor(rng.random(draws)[block % draws] * counts[block])
    ratios = draw_ratios(states, steps, draws, rng)
    return trajectory_mask(step_map, steps, ratios[block % len(ratios)], states.mask_order)


def draw_ratios(states: States, steps: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw shares of a block that are still masked, `[count]`."""
    distribution = ratio_distribution(states, steps)
    return rng.choice(list(distribution), p=list(distribution.values()), size=count)


def ratio_distribution(states: States, steps: int) -> dict[float, float]:
    """Mask ratio -> probability of trajectory states whose rollout took `steps` steps a block.

    A draw depends on the order of its choices. They are sorted by ratio, since a recipe digest does not cover the order
    in which a file lists them.
    """
    if isinstance(states.mask_ratios, dict):
        return dict(sorted(states.mask_ratios.items(), reverse=True))
    if states.mask_ratios == "uniform":
        return {step / steps: 1 / steps for step in range(1, steps + 1)}
    weights = {ratio: ratio**8 for ratio in (1.0, 0.75, 0.5, 0.25)}
    total = sum(weights.values())
    return {ratio: weight / total for ratio, weight in weights.items()}


def trajectory_mask(
    step_map: np.ndarray, steps: int, ratio: float | np.ndarray, order: str = "committed"
) -> np.ndarray:
    """Masked positions of a trajectory state, bool `[response]`.

    A token is visible if the teacher had committed it by step s = round((1 - ratio) * steps); ratio 1 masks all. With
    order `reversed` (released behaviour) as many steps are visible, but the last ones.
    """
    visible_steps = np.round((1 - ratio) * steps)
    if order == "reversed":
        return step_map <= steps - visible_steps
    return step_map > visible_steps


def dynamic_forwards(
    step_map: np.ndarray, confidence: np.ndarray, block: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The forward of its block in which dynamic remasking would commit each token, judged by a full-step rollout.

    A forward commits every token whose confidence exceeds the threshold, or else the best one. Tokens that the teacher
    committed one after another, each above the threshold, are taken for one forward.

    Args:
        step_map: 1..S, `[response]`.
        confidence: when the token was committed, `[response]`.
        block: number of each token's block from 0, `[response]`.
        threshold: of dynamic remasking.

    Returns:
        The forward of each token, from 0, `[response]`; and how many each block takes, `[blocks]`.
    """
    order = np.lexsort((step_map, block))
    alone, ordered = confidence[order] <= threshold, block[order]
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (ordered[1:] != ordered[:-1]) | alone[1:] | alone[:-1]
    counts = np.bincount(ordered[opens])
    forwards = np.empty(len(order), dtype=np.int64)
    forwards[order] = np.cumsum(opens) - 1 - (np.cumsum(counts) - counts)[ordered]
    return forwards, counts


def block_mask(block: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Masked positions of a block state, bool `[response]`; `block`: number of each token's block from 0, ascending.

    In every block of n tokens the number of masked ones is uniform in 1..n, their places are uniform.
    """
    sizes = np.bincount(block)
    counts = 1 + np.floor(rng.random(len(sizes)) * sizes)
    # Rank of each token in its block by a random number.
    order = np.lexsort((rng.random(len(block)), block))
    rank = np.empty(len(block), dtype=np.int64)
    rank[order] = np.arange(len(block)) - (np.cumsum(sizes) - sizes)[block]
    return rank < counts[block]


def random_mask(length: int, rng: np.random.Generator) -> np.ndarray:
    """Masked positions of a random state, bool `[length]`: t ~ U(0, 1), each token masked with probability t, (16).

    At least one token is masked, so that every sample has a loss.
    """
    masked = rng.random(length) < rng.random()
    masked[rng.integers(length)] |= not masked.any()
    return masked
