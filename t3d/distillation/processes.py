"""Processes that train one student together, one GPU each: what they tell each other. `launch.py` starts them.

Every process computes its share of a step's micro-batches and updates its part of the student (`sharding.py`). Where
there is one process, every function here does nothing or answers for it alone.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from t3d.errors import T3DError

# A process that has written its part of a state waits for the others, and all wait while the main one reads or saves
# the student: longer than NCCL's 10 minutes on a slow file system. A process that dies does not make the others wait:
# the launcher ends them.
_PATIENCE = timedelta(hours=1)
_PR_SET_PDEATHSIG = 1


def is_one_of_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(device: str) -> str:
    """Meet the other processes; returns the device of this one: `device` itself, or one GPU of several (`cuda:3`)."""
    if not is_one_of_several():
        return device
    from accelerate import PartialState

    # A launcher that is killed outright takes its processes along; left alone they would go on writing states beside
    # those of the next attempt.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return str(PartialState(cpu=device == "cpu", timeout=_PATIENCE).device)


def leave() -> None:
    """Wait for the others and part."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and says what happens."""
    return rank() == 0


@contextmanager
def together() -> Iterator[None]:
    """Around what every process does: if it fails in one of them, all end, with one message. It is a barrier too.

    Raises:
        T3DError: in the main process, the first failure, whichever process it happened in.
        SystemExit: in the others.
    """
    failure = None
    try:
        yield
    except T3DError as error:
        if count() == 1:
            raise
        failure = error
    if any_of(failure is not None):
        failures: list[T3DError | None] = [None] * count()
        dist.all_gather_object(failures, failure)
        if is_main():
            raise next(found for found in failures if found is not None)
        # Status 0: the launcher terminates the rest as soon as one process ends with another, and the main process is
        # about to say why.
        raise SystemExit(0)


def any_of(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    return largest(float(flag)) > 0


def largest(number: float) -> float:
    """The largest `number` of all processes."""
    return _reduced([number], dist.ReduceOp.MAX)[0] if count() > 1 else number


def total(numbers: dict[str, float]) -> dict[str, float]:
    """The sums over processes of numbers that all of them have."""
    if count() == 1:
        return numbers
    return dict(zip(numbers, _reduced(list(numbers.values()), dist.ReduceOp.SUM), strict=True))


def _reduced(numbers: list[float], operation) -> list[float]:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(values, op=operation)
    return values.tolist()
