"""One recorded trajectory and the checks it must pass.

`shards.py` stores them, `rollout.py` makes them, `t3d/distillation/states.py` learns from them.
"""

import math
from dataclasses import dataclass

FINISH_REASONS = ("stop", "length")


@dataclass(frozen=True)
class Trajectory:
    """A decoding of one prompt, by a teacher or a student of it.

    `response_ids` is complete to the end of its last block on the global grid. `step_map[i]` in 1..S is the denoising
    step within its block at which response token i was committed, `confidence[i]` the model's probability of it at that
    moment. `score` is how likely the teacher finds it (`scoring.py`), None where it was not scored.
    """

    prompt_id: str
    prompt_ids: list[int]
    response_ids: list[int]
    step_map: list[int]
    confidence: list[float]
    finish_reason: str
    seed: int
    score: float | None = None


def problem_with(trajectory: Trajectory, block_size: int, steps: int) -> str | None:
    """What does not fit in a trajectory, in words; None if it is sound.

    Args:
        trajectory: the record.
        block_size: tokens per block of the rollout.
        steps: steps per block of the rollout.
    """
    length = len(trajectory.response_ids)
    if length == 0:
        return "response_ids is empty"
    for name in ("step_map", "confidence"):
        found = len(getattr(trajectory, name))
        if found != length:
            return f"{name} has {found} entries for {length} response tokens"
    if (len(trajectory.prompt_ids) + length) % block_size:
        return f"prompt and response are {len(trajectory.prompt_ids) + length} tokens, not whole blocks of {block_size}"
    outside = [step for step in trajectory.step_map if not 1 <= step <= steps]
    if outside:
        return f"step_map holds step {outside[0]}, allowed are 1..{steps}"
    if trajectory.finish_reason not in FINISH_REASONS:
        return f"finish_reason is {trajectory.finish_reason!r}, allowed are {', '.join(FINISH_REASONS)}"
    unlikely = next((c for c in trajectory.confidence if not 0.0 <= c <= 1.0), None)
    if unlikely is not None:
        return f"confidence holds {unlikely}, which is no probability"
    if trajectory.score is not None and not math.isfinite(trajectory.score):
        return f"score is {trajectory.score}"
    return _missing_step(trajectory, block_size)


def _missing_step(trajectory: Trajectory, block_size: int) -> str | None:
    """Every step of a block commits at least one token, so the steps of a block are 1..k without a gap."""
    start = len(trajectory.prompt_ids)
    blocks: dict[int, set[int]] = {}
    for offset, step in enumerate(trajectory.step_map):
        blocks.setdefault((start + offset) // block_size, set()).add(step)
    for block, steps in blocks.items():
        missing = set(range(1, max(steps) + 1)) - steps
        if missing:
            return f"step_map has no step {min(missing)} in block {block}, though the block has later steps"
    return None
