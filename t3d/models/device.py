"""Where expensive work runs."""

import os

import torch
from torch import Tensor

from t3d.errors import ParameterError
from t3d.params import Experiment

_WIDE = 1024
"""Hidden size from which compiling pays."""


def pick_device(experiment: Experiment) -> str:
    """The device an expensive verb runs on, `cpu` or `cuda`; a GPU's memory is set up for it.

    Raises:
        ParameterError: the experiment asks for a GPU and there is none.
    """
    set_up_memory()
    if experiment.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if experiment.device == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"params/{experiment.name}.yaml: device is cuda, but PyTorch sees no GPU here.")
    return experiment.device


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
