"""Which samples an optimizer step learns from, in which micro-batches.

Nothing here is random: order and states follow from (seed, step), and are the same for any number of processes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from transformers import PreTrainedModel

from t3d.distillation.examples import Example
from t3d.distillation.states import Batch, draw_batch
from t3d.distributed import collectives
from t3d.models.device import runs_apart
from t3d.params import Student
from t3d.seeds import seed_for

Pass = tuple[Batch, float, bool]
"""A micro-batch, its weight in the loss of its optimizer step, and whether it is the step's last."""


@dataclass(frozen=True)
class TrainingJob:
    """What a training run needs besides its models.

    `packed`: the models are large and on a GPU, so that rows are packed (`models/packed.py`). `block_sizes`: sizes that
    take turns by step, instead of the student's one. `causal`: a frozen autoregressive model and its share of the loss,
    for `losses.with_causal`.
    """

    student: Student
    examples: Sequence[Example]
    steps_per_block: int
    mask_id: int
    vocabulary: int
    seed: int
    device: str = "cpu"
    packed: bool = False
    block_sizes: tuple[int, ...] = ()
    causal: tuple[PreTrainedModel, float] | None = None


class Batches:
    """This process's micro-batches, step by step."""

    def __init__(self, setting: TrainingJob) -> None:
        """Draw nothing yet."""
        self.setting = setting
        self._drawn: tuple[int, Iterator[Pass]] | None = None

    def of(self, step: int) -> Iterator[Pass]:
        """The passes of optimizer step `step`, of which the first may have been drawn before."""
        if self._drawn is not None and self._drawn[0] == step:
            return self._drawn[1]
        return _passes(self.setting, step)

    def draw_ahead(self, step: int) -> None:
        """Draw the first micro-batch of a step, while a GPU still computes the step before: drawing takes 14 ms for 32
        rows."""
        if step < self.setting.student.optimizer.steps and runs_apart(self.setting.device):
            passes = _passes(self.setting, step)
            self._drawn = step, chain([next(passes)], passes)


def _passes(setting: TrainingJob, step: int) -> Iterator[Pass]:
    """This process's micro-batches of an optimizer step, the weight of each in the loss, and whether it is the last.

    All processes make the same number of passes, since every layer is gathered from all of them. A process with one
    micro-batch less than others repeats its last with weight 0; it would have to wait anyway.
    """
    spec = setting.student.optimizer
    passes = math.ceil(spec.batch_size / (spec.micro_batch_size or spec.batch_size) / collectives.world_size())
    batches = micro_batches(setting, step, collectives.rank(), collectives.world_size())
    batch = next(batches)
    share = len(batch.ids) / (spec.batch_size * (2 if setting.student.states.complement else 1))
    for done in range(1, passes + 1):
        yield batch, share, done == passes
        if (following := next(batches, None)) is None:
            share = 0.0
        else:
            batch = following


def micro_batches(setting: TrainingJob, step: int, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
    """The states of an optimizer step, in parts of at most `micro_batch_size` rows.

    Padded rows of similar length are put together. Of packed rows every part gets short and long ones, so that all
    parts have about as many tokens. The parts are the same for any number of processes; process `rank` gets every
    `ranks`-th of them.
    """
    rows = rows_of(setting, step)
    sizes = setting.block_sizes or (setting.student.block_size,)
    size = setting.student.optimizer.micro_batch_size or setting.student.optimizer.batch_size
    count = -(-len(rows) // size)
    for number in range(count)[rank::ranks]:
        part = rows[number::count] if setting.packed else rows[number * size : (number + 1) * size]
        yield draw_batch(
            [setting.examples[index] for _, index in part],
            [epoch for epoch, _ in part],
            setting.student.states,
            steps=setting.steps_per_block,
            block_size=sizes[step % len(sizes)],
            mask_id=setting.mask_id,
            vocabulary=setting.vocabulary,
            seed=setting.seed,
            block_grid=setting.student.rows.block_grid,
            device=setting.device,
            packed=setting.packed,
        )


def rows_of(setting: TrainingJob, step: int) -> list[tuple[int, int]]:
    """(epoch, example index) of each sample of an optimizer step, the shortest first."""
    rows = samples_of(len(setting.examples), setting.student.optimizer.batch_size, step, setting.seed)
    return sorted(rows, key=lambda sample: len(setting.examples[sample[1]].row))


def samples_of(count: int, batch_size: int, step: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, example index) of each sample of an optimizer step: epochs follow each other, each in its own order."""
    samples = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        samples.append((epoch, int(_order(count, epoch, seed)[offset])))
    return samples


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    # A permutation of 50 000 rows takes 0.4 ms, and every sample of a step asks for it.
    return np.random.default_rng(seed_for(seed, "order", epoch)).permutation(count)


def tokens_of(setting: TrainingJob, step: int) -> int:
    """Prompt and response tokens of the samples of an optimizer step."""
    rows = sum(len(setting.examples[index].row) for _, index in rows_of(setting, step))
    return rows * (2 if setting.student.states.complement else 1)
