"""Processes that do one job together, one GPU each: what they tell each other. `launch.py` starts them.

Of a student, every process computes its share of a step's micro-batches and updates its part (`fsdp.py`). When they
decode, each decodes its share of the requests (`map_over_ranks`). Where there is one process, every function here does
nothing or answers for it alone.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeVar

import torch
import torch.distributed as dist

from t3d.errors import T3DError

# A process that has written its part of a state waits for the others, and all wait while the main one reads or saves
# the student: longer than NCCL's 10 minutes on a slow file system. A process that dies does not make the others wait:
# the launcher ends them.
_TIMEOUT = timedelta(hours=1)
_PR_SET_PDEATHSIG = 1

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_one_of_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def init_process_group(device: str, backend: Literal["gloo"] | None = None) -> str:
    """Meet the other processes.

    Args:
        device: `cpu` or `cuda`.
        backend: how they talk, on the device (None) or beside it: `gloo` leaves a GPU's memory alone.

    Returns:
        The device of this process: `device` itself, or one GPU of several (`cuda:3`).
    """
    if not is_one_of_several():
        return device
    from accelerate import PartialState

    # A launcher that is killed outright takes its processes along; left alone they would go on writing states beside
    # those of the next attempt.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return str(PartialState(cpu=device == "cpu", timeout=_TIMEOUT, backend=backend).device)


def destroy_process_group() -> None:
    """Wait for the others and part."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and says what happens."""
    return rank() == 0


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Around what every process does: if it fails in one of them, all end, with one message. It is a barrier too.

    Raises:
        T3DError: in the main process, the first failure, whichever process it happened in.
        SystemExit: in the others.
    """
    failure = None
    try:
        yield
    except T3DError as error:
        if world_size() == 1:
            raise
        failure = error
    if any_of(failure is not None):
        failures: list[T3DError | None] = [None] * world_size()
        dist.all_gather_object(failures, failure)
        if is_main():
            raise next(found for found in failures if found is not None)
        # Status 0: the launcher terminates the rest as soon as one process ends with another, and the main process is
        # about to say why.
        raise SystemExit(0)


def map_over_ranks(
    items: Sequence[Item],
    work: Callable[[Sequence[Item], Callable[[int], None] | None], list[Result]],
    on_finished: Callable[[int], None] | None = None,
) -> list[Result]:
    """Share work on many items among the processes, and give the results of all items to all of them.

    Args:
        items: the same in every process; process r of n works on items r, r + n, r + 2n, ...
        work: makes one result of each item, in order. It calls its second argument with the number of items that it
            has finished.
        on_finished: told how many more items are finished. Nobody asks the other processes: they are taken to be as far
            as this one.

    Returns:
        The results, in the order of `items`.

    Raises:
        T3DError: `work` failed here. The launcher ends the other processes as soon as this one ends.
    """
    processes, finished = world_size(), 0

    def advance(number: int) -> None:
        nonlocal finished
        before = min(finished * processes, len(items))
        finished += number
        if on_finished is not None and (more := min(finished * processes, len(items)) - before):
            on_finished(more)

    try:
        mine = work(items[rank() :: processes], advance)
    except T3DError:
        # What fails in every process is said by the first one: it has a second to end the others.
        time.sleep(rank())
        raise
    if processes == 1:
        return mine
    parts: list[list[Result]] = [[] for _ in range(processes)]
    dist.all_gather_object(parts, mine)
    return [parts[number % processes][number // processes] for number in range(len(items))]


def any_of(flag: bool) -> bool:
    """Whether `flag` is set in any process."""
    return all_reduce_max(float(flag)) > 0


def all_reduce_max(number: float) -> float:
    """The largest `number` of all processes."""
    return _reduced([number], dist.ReduceOp.MAX)[0] if world_size() > 1 else number


def all_reduce_sum(numbers: dict[str, float]) -> dict[str, float]:
    """The sums over processes of numbers that all of them have."""
    if world_size() == 1:
        return numbers
    return dict(zip(numbers, _reduced(list(numbers.values()), dist.ReduceOp.SUM), strict=True))


def _reduced(numbers: list[float], operation) -> list[float]:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    values = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(values, op=operation)
    return values.tolist()
