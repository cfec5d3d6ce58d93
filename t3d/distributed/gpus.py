"""Which device a job computes on, and how jobs of one user spread over the GPUs of a machine."""

import errno
import fcntl
import glob
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

import torch

from t3d.distributed import collectives
from t3d.errors import ParameterError


class Experiment(Protocol):
    """What is read of an experiment here (`t3d.params.Experiment`)."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]: ...


def pick_device(experiment: Experiment) -> str:
    """The device an expensive verb runs on, `cpu` or `cuda`, and a GPU's memory set up for it.

    Of several GPUs a job takes the one that fewest jobs of this user have claimed (`claim_gpus`); processes that do one
    job together are told theirs by their launcher.

    Raises:
        ParameterError: the experiment asks for a GPU and there is none.
    """
    set_up_memory()
    device = device_of(experiment)
    if device == "cuda" and not collectives.is_one_of_several():
        torch.cuda.set_device(_own_gpu())
    return device


@cache
def _own_gpu() -> int:
    """A process that does several jobs stays on the GPU that it has claimed."""
    return claim_gpus(1)[0]


def claim_gpus(count: int) -> list[int]:
    """Numbers of `count` GPUs that PyTorch sees, those that fewest jobs have claimed; claimed until this process ends.

    Where claims cannot be written the first ones are taken: that costs speed, nothing else. Jobs know of each other if
    they share the folder of temporary files.
    """
    gpus = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    try:
        return claim(gpus, count, Path(tempfile.gettempdir()))
    except OSError as error:
        print(f"jobs are not spread over GPUs: {error}", file=sys.stderr, flush=True)
        return list(range(count))


def jobs_on_gpu(device: str) -> int | None:
    """How many jobs of this user have claimed the GPU that this process computes on, itself among them.

    None on a CPU, and where the number is not known: claims cannot be read, or this process's own is not among them.
    """
    if not device.startswith("cuda"):
        return None
    name = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    try:
        return held([name], Path(tempfile.gettempdir()))[0] or None
    except OSError:
        return None


def device_of(experiment: Experiment) -> str:
    """`cpu` or `cuda`, as the experiment says.

    Raises:
        ParameterError: the experiment asks for a GPU and there is none.
    """
    if experiment.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(
            f"params/{experiment.name}.yaml: device is cuda, but PyTorch sees no GPU here. Run it on a machine with a "
            "GPU, or set `device: auto` there, which computes on the CPU, slowly. What is missing: t3d doctor "
            f"--experiment {experiment.name}"
        )
    return experiment.device


def claim(names: Sequence[str], count: int, folder: Path) -> list[int]:
    """Claim `count` of several things, those that fewest processes of this user hold, until this process ends.

    Args:
        names: of the things, as every process calls them.
        count: how many to claim.
        folder: where a claim is a file that is locked by who holds it, so that a killed process holds nothing.

    Returns:
        Their numbers in `names`, ascending.

    Raises:
        OSError: claims cannot be written or locked there.
    """
    with _one_at_a_time(folder) as prefix:
        counts = [_count(prefix, name, folder) for name in names]
        chosen = sorted(sorted(range(len(names)), key=counts.__getitem__)[:count])
        for number in chosen:
            file, _ = tempfile.mkstemp(prefix=f"{prefix}{names[number]}.", dir=folder)
            # Open as long as this process lives.
            fcntl.flock(file, fcntl.LOCK_EX)
    return chosen


def held(names: Sequence[str], folder: Path) -> list[int]:
    """How many claims of this user hold each of several things; see `claim`.

    Raises:
        OSError: claims cannot be read or locked there.
    """
    with _one_at_a_time(folder) as prefix:
        return [_count(prefix, name, folder) for name in names]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[str]:
    """Keep other processes from claiming; gives what the names of this user's claims begin with."""
    prefix = f"t3d-{os.getuid()}-"
    with _opened(folder / f"{prefix}claims.lock", os.O_RDWR | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield prefix


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file that others could have put in a folder that everybody writes to.

    Raises:
        OSError: it is a link, no file, or another user's.
    """
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "not a file of this user", str(path))
        yield file
    finally:
        os.close(file)


def _count(prefix: str, name: str, folder: Path) -> int:
    return sum(_is_held(file) for file in folder.glob(f"{prefix}{glob.escape(name)}.*"))


def _is_held(claim: Path) -> bool:
    """Whether the process that made a claim lives. The claim of a dead process is removed; a file that is not a claim
    is left alone."""
    try:
        with _opened(claim, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    claim.unlink()
    return False


def set_up_memory() -> None:
    """Let a GPU's memory grow in place, before it is used: batches of changing size would cut it into pieces."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
