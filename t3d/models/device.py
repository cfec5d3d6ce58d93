"""Where expensive work runs."""

import fcntl
import os
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from t3d import processes
from t3d.errors import ParameterError
from t3d.params import Experiment

_WIDE = 1024
"""Hidden size from which compiling pays."""


def pick_device(experiment: Experiment) -> str:
    """The device an expensive verb runs on, `cpu` or `cuda`, and a GPU's memory set up for it.

    Of several GPUs a job that needs one takes the one that fewest jobs of this user compute on.

    Raises:
        ParameterError: the experiment asks for a GPU and there is none.
    """
    set_up_memory()
    device = device_of(experiment)
    if device == "cuda" and torch.cuda.device_count() > 1 and not processes.is_one_of_several():
        gpus = [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]
        torch.cuda.set_device(claim(gpus, Path(tempfile.gettempdir())))
    return device


def device_of(experiment: Experiment) -> str:
    """`cpu` or `cuda`, as the experiment says.

    Raises:
        ParameterError: the experiment asks for a GPU and there is none.
    """
    if experiment.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"params/{experiment.name}.yaml: device is cuda, but PyTorch sees no GPU here.")
    return experiment.device


def claim(names: Sequence[str], folder: Path) -> int:
    """Which of several things fewest processes of this user have claimed; it is claimed until this process ends.

    Args:
        names: of the things, as every process calls them.
        folder: where the claims are files; each is locked by who made it, so that a killed process claims nothing.
    """
    for claims in count():
        for number, name in enumerate(names):
            file = os.open(folder / f"t3d-{os.getuid()}-{name}-{claims}", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                return number
    raise AssertionError("there is always one more")


def set_up_memory() -> None:
    """Let a GPU's memory grow in place, before it is used: batches of changing size would cut it into pieces."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def worth_compiling(hidden_size: int, device: str | torch.device) -> bool:
    """Whether fused kernels save a model as wide as this what compiling takes."""
    return torch.device(device).type == "cuda" and hidden_size >= _WIDE


def autocast(device: str | torch.device) -> torch.autocast:
    """Products in bf16 on a GPU; nothing on a CPU."""
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=torch.device(device).type == "cuda")


def send(values: Tensor, device: str | torch.device) -> Tensor:
    """`values` on `device`; a GPU takes them when it comes to them, and nobody waits for that."""
    if torch.device(device).type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
