"""How the engine's Triton kernels start: for which tensors, and before the kernel ahead of them has ended."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

_FEW = 64
"""Rows up to which kernels start early. With 512 it makes no 4B model faster, and one of 0.5B slower by 2 %."""


def by_kernel(x: Tensor) -> bool:
    """Whether kernels take `x`: on a GPU, or where Triton interprets its kernels, as tests do."""
    return triton is not None and (x.is_cuda or triton.knobs.runtime.interpret)


def early(x: Tensor, rows: int) -> dict[str, Any]:
    """Options of a launch: with few rows, its programs come to the GPU while the kernel ahead still runs.

    There a kernel takes about 2 us, and so does the time between two. The programs wait in `begin` until the kernel
    ahead has ended (programmatic dependent launch, from Hopper on). So every kernel that starts with these options
    calls `begin` before it reads what another one has written, and before it writes.

    Args:
        x: a tensor of the kernel, on its device.
        rows: tokens of the forward that it belongs to.
    """
    starts_early = x.is_cuda and rows <= _FEW and _can_start_early(x.device)
    return {"EARLY": True, "launch_pdl": True} if starts_early else {"EARLY": False}


@cache
def _can_start_early(device: torch.device) -> bool:
    # ROCm counts differently.
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


if triton is not None:

    @triton.jit
    def begin(EARLY: tl.constexpr):
        """Let the next kernel come, and wait for the end of the one ahead."""
        if EARLY:
            gdc_launch_dependents()
            gdc_wait()
