"""How a run went, for receipts: time, device, memory, versions of libraries, and the commit of the code that ran."""

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("t3d", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "lm-eval", "reasoning-gym")


@dataclass(frozen=True)
class Beginning:
    """When a run began: the time, the CPU time of this process and its children till then, and since its start."""

    time: float
    cpu: float
    since_start: float


_again: list[float] = []


def start_again() -> None:
    """Say that this process begins another job: its start counts from now on."""
    _again[:] = [time.clock_gettime(time.CLOCK_BOOTTIME)]


def begin() -> Beginning:
    """The beginning of a run that begins now; a process that was forked started with the fork."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    started = max([ticks / os.sysconf("SC_CLK_TCK"), *_again])
    return Beginning(time.time(), sum(os.times()[:4]), time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def since(begun: Beginning, device: str) -> dict[str, Any]:
    """The circumstances of a run on `device` that ends now."""
    facts: dict[str, Any] = {
        "seconds": round(time.time() - begun.time, 2),
        "start_seconds": round(begun.since_start, 2),
        "cpu_seconds": round(sum(os.times()[:4]) - begun.cpu, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device_name(device),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "git_commit": git_commit(),
    }
    if device.startswith("cuda"):
        import torch

        facts["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return facts


def device_name(device: str) -> str:
    """What a device is called: `cpu`, or the name of the GPU."""
    if not device.startswith("cuda"):
        return "cpu"
    import torch

    return torch.cuda.get_device_name()


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit(code: Path = Path(__file__)) -> str | None:
    """The commit of the code, wherever it is run, with `-dirty` where tracked files of its repository differ from it.

    None where no repository tracks the code, for example once it is installed; the commit of another project around it
    would say nothing.
    """
    git = ["git", "-C", str(code.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", code.name], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        done = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
