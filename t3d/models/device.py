"""What a device changes in a model: precision, compilation, copies."""

import torch
from torch import Tensor

_WIDE = 768
"""Hidden size from which compiling pays: the smallest Qwen2.5 has 896, pocket models 320."""


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
