"""What a device changes in a model: precision, compilation, copies."""

from collections.abc import Callable

import torch
from torch import Tensor

_WIDE = 768
"""Hidden size from which compiling pays: the smallest Qwen2.5 has 896, pocket models 320."""


def worth_compiling(hidden_size: int, device: str | torch.device) -> bool:
    """Whether fused kernels save more time than compiling takes, for a model of this width."""
    return torch.device(device).type == "cuda" and hidden_size >= _WIDE


def runs_apart(device: str | torch.device) -> bool:
    """Whether a device works asynchronously, so that the host can go on meanwhile."""
    return torch.device(device).type == "cuda"


def autocast(device: str | torch.device) -> torch.autocast:
    """Products in bf16 on a GPU; nothing on a CPU."""
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=torch.device(device).type == "cuda")


def send(values: Tensor, device: str | torch.device) -> Tensor:
    """`values` on `device`; nobody waits for the copy to a GPU."""
    if not runs_apart(device) or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def fetch(values: Tensor) -> Callable[[], list[float]]:
    """A function that returns the numbers of a vector. It waits until a GPU has computed them, and not for later
    work."""
    if not values.is_cuda:
        return values.tolist
    copied, arrived = values.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()

    def read() -> list[float]:
        arrived.synchronize()
        return copied.tolist()

    return read
