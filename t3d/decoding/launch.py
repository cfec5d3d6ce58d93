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
"""Rows up to which kernels start early. With 1,024 (128 sequences) it makes no 4B model faster, and one of 0.5B slower
by 2 %."""


def by_kernel(x: Tensor) -> bool:
    """Whether kernels take `x`: on a GPU, or where Triton interprets its kernels, as tests do."""
    return triton is not None and (x.is_cuda or triton.knobs.runtime.interpret)


def early(x: Tensor, rows: int) -> dict[str, Any]:
    """Options of a launch: with few rows, its programs come to the GPU while the kernel ahead still runs.

    With few rows a kernel takes about 2 us, and so does the gap before the next one. The programs wait in
    `wait_for_last` until the kernel ahead has ended (programmatic dependent launch, from Hopper on). So every kernel
    that starts with these options calls it, or `begin`, before it reads what a kernel writes, and before it writes.
    Weights may be read earlier.

    Args:
        x: a tensor of the kernel, on its device.
        rows: on which it works.
    """
    starts_early = x.is_cuda and rows <= _FEW and _can_start_early(x.device)
    return {"EARLY": True, "launch_pdl": True} if starts_early else {"EARLY": False}


@cache
def _can_start_early(device: torch.device) -> bool:
    # ROCm counts differently.
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


if triton is not None:

    @triton.jit
    def wait_for_last(EARLY: tl.constexpr):
        """Wait for the end of the kernel ahead, and so of all before it."""
        if EARLY:
            gdc_wait()

    @triton.jit
    def let_next_come(EARLY: tl.constexpr):
        """The next kernel's programs may come when all of this one have said so."""
        if EARLY:
            gdc_launch_dependents()

    @triton.jit
    def begin(EARLY: tl.constexpr):
        """Both, as small kernels do."""
        let_next_come(EARLY)
        wait_for_last(EARLY)
