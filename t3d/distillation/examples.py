"""What a student learns from: recorded trajectories, or prompts with gold worked answers, in one shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t3d import receipts
from t3d.errors import DataError
from t3d.params import Budget, Experiment, Student
from t3d.prompts import sets
from t3d.trajectories import shards


@dataclass(frozen=True)
class Example:
    """One response x_0 with its prompt; `step_map` (1..S per response token) only where a teacher decoded it."""

    id: str
    prompt_ids: list[int]
    response_ids: list[int]
    step_map: list[int] | None = None

    @property
    def row(self) -> np.ndarray:
        """Prompt and response ids in one array."""
        return np.array([*self.prompt_ids, *self.response_ids])


def load(
    experiment: Experiment, student: Student, data: Sequence[receipts.Manifest], filler: int
) -> tuple[list[Example], int]:
    """Read the examples of a student, and the number of steps S of their step maps (0 for gold answers).

    Args:
        experiment: whose parameters say how the data were decoded.
        student: its objective decides which data it needs.
        data: manifests of trajectory shards, or of one prompt set.
        filler: id that completes a gold answer's last block, as in pretraining.

    Raises:
        DataError: the shards are not the ones the student names, or were decoded on another block grid.
    """
    if student.prompts is not None:
        _expect({m.artefact for m in data}, {f"prompts/{student.prompts}"})
        prompts = sets.read(data[0])
        return [_gold(prompt, student.block_size, filler) for prompt in prompts], 0
    name = student.trajectories or ""
    spec = experiment.trajectories[name]
    _expect(
        {m.artefact for m in data}, {f"trajectories/{name}/{index}-of-{spec.shards}" for index in range(spec.shards)}
    )
    budget = Budget.parse(spec.budget)
    if budget.block_size != student.block_size:
        raise DataError(
            f"students train on blocks of {student.block_size}, but trajectories.{name} were decoded in blocks of "
            f"{budget.block_size}: a training block must be a decoded block. Make them equal."
        )
    examples = []
    for manifest in sorted(data, key=lambda m: m.artefact):
        trajectories, _ = shards.read(manifest.file(".parquet"))
        examples += [Example(t.prompt_id, t.prompt_ids, t.response_ids, t.step_map) for t in trajectories]
    # One order, whatever the number of shards.
    return sorted(examples, key=lambda example: example.id), budget.steps or 0


def _gold(prompt: sets.Prompt, block_size: int, filler: int) -> Example:
    missing = -(len(prompt.prompt_ids) + len(prompt.reference_ids)) % block_size
    return Example(prompt.id, prompt.prompt_ids, prompt.reference_ids + [filler] * missing)


def _expect(found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        raise DataError(f"this student learns from {', '.join(sorted(wanted))}; found {', '.join(sorted(found))}.")
