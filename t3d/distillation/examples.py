"""What a student learns from: recorded trajectories, or prompts with gold worked answers, in one shape."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from t3d.errors import DataError
from t3d.params import Budget, Experiment, Student
from t3d.prompts.reader import Prompt, encode_prompt, read_prompts
from t3d.provenance import store
from t3d.provenance.lineage import shard_names
from t3d.trajectories import shards
from t3d.trajectories.record import Trajectory


@dataclass(frozen=True)
class Example:
    """One response x_0 with its prompt. `step_map` (1..S per response token) and `confidence` (the teacher's, when it
    committed the token) are None unless a model decoded it. `left_out`: how many tokens of the decoded prompt are left
    out."""

    id: str
    prompt_ids: list[int]
    response_ids: list[int]
    step_map: list[int] | None = None
    confidence: list[float] | None = None
    left_out: int = 0

    @cached_property
    def row(self) -> np.ndarray:
        """Prompt and response ids in one array."""
        return np.array([*self.prompt_ids, *self.response_ids])


def load(
    experiment: Experiment,
    student: Student,
    data: Sequence[store.Manifest],
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    seed: int = 0,
    vocabulary: int = 2**31,
) -> tuple[list[Example], int]:
    """Read the examples of a student, and the number of steps S of their step maps (0 for gold answers).

    Args:
        experiment: whose parameters say how the data were decoded.
        student: its objective decides which data it needs, its `rows` how a rollout becomes an example.
        data: manifests of all its trajectory shards, or of its prompt sets, or of both where `rows.prompt` is `bare`,
            as `store.read_inputs` gives them.
        tokenizer: the teacher's.
        stop_ids: the teacher's ids that end a response, for `rows.terminal_block: cut`.
        seed: of the student that learns; rollouts by another student are taken from the same seed.
        vocabulary: the model's; token numbers are below.

    Raises:
        DataError: the data were decoded on another block grid, or have no scores and `keep` asks for them.
    """
    if student.prompts:
        filler = tokenizer.pad_token_id
        prompts = [prompt for manifest in data for prompt in read_prompts(manifest, vocabulary)]
        gold = [_gold(prompt, student.block_size, filler) for prompt in prompts]
        _check_distinct(gold)
        return gold, 0
    specs = {name: experiment.trajectories[name] for name in student.trajectories}
    shard_artefacts = {f"trajectories/{n}/{shard}": n for n, spec in specs.items() for shard in shard_names(spec, seed)}
    bare_sets = {f"prompts/{spec.prompts}" for spec in specs.values()} if student.rows.prompt == "bare" else set()
    budget = Budget.parse(next(iter(specs.values())).budget)
    if budget.block_size != student.block_size and student.rows.rollout_blocks == "equal":
        raise DataError(
            f"students train on blocks of {student.block_size}, but trajectories.{next(iter(specs))} were decoded in "
            f"blocks of {budget.block_size}: a training block must be a decoded block. Make them equal, or ask for the "
            "released behaviour with rows.rollout_blocks: any."
        )
    bare = {
        prompt.id: encode_prompt(tokenizer, prompt.text)
        for manifest in data
        if manifest.artefact in bare_sets
        for prompt in read_prompts(manifest)
    }
    rollouts: dict[str, list[Trajectory]] = {name: [] for name in specs}
    for manifest in (m for m in data if m.artefact in shard_artefacts):
        read = shards.read(manifest.file(".parquet"), vocabulary)[0]
        manifest.check_count("trajectories", len(read))
        rollouts[shard_artefacts[manifest.artefact]] += read
    examples = []
    for name, trajectories in rollouts.items():
        for t in trajectories if student.keep is None else likeliest(name, trajectories, student.keep):
            kept = len(t.response_ids)
            if student.rows.terminal_block == "cut":
                kept = next((i + 1 for i, token in enumerate(t.response_ids) if token in stop_ids), kept)
            kept = min(kept, _whole_blocks(student, len(t.prompt_ids)))
            prompt_ids = bare.get(t.prompt_id, t.prompt_ids)
            recorded = t.response_ids[:kept], t.step_map[:kept], t.confidence[:kept]
            examples.append(Example(t.prompt_id, prompt_ids, *recorded, len(t.prompt_ids) - len(prompt_ids)))
    _check_distinct(examples)
    # One order, whatever the number of shards.
    return sorted(examples, key=lambda example: example.id), budget.steps or 0


def likeliest(name: str, trajectories: Sequence[Trajectory], share: float) -> list[Trajectory]:
    """The share of rollouts `name` with the highest scores, of equal ones the first by id; at least one.

    Raises:
        DataError: they have no scores.
    """

    def rank(trajectory: Trajectory) -> tuple[float, str]:
        if trajectory.score is None:
            raise DataError(
                f"trajectories.{name} have no scores, which `keep` chooses by; make them with scored: true."
            )
        return -trajectory.score, trajectory.prompt_id

    return sorted(trajectories, key=rank)[: max(1, round(share * len(trajectories)))]


def _whole_blocks(student: Student, prompt_length: int) -> int:
    """Response tokens that a row keeps: up to the end of the last whole block within `rows.max_response_tokens`.

    `prompt_length` is that of the rollout: on the global grid a row keeps the rollout's blocks.
    """
    limit = student.rows.max_response_tokens
    if limit is None:
        return sys.maxsize
    before = prompt_length if student.rows.block_grid == "global" else 0
    return (before + limit) // student.block_size * student.block_size - before


def _check_distinct(examples: Sequence[Example]) -> None:
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"prompt {example.id} is in two of the student's data sets; name sets that do not overlap.")
        seen.add(example.id)


def _gold(prompt: Prompt, block_size: int, filler: int) -> Example:
    missing = -(len(prompt.prompt_ids) + len(prompt.reference_ids)) % block_size
    return Example(prompt.id, prompt.prompt_ids, prompt.reference_ids + [filler] * missing)
