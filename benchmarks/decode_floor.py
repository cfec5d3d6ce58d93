"""What a machine can do at best: the least that decoding must read and multiply, over the machine's own rates.

The rates are measured, not read off a datasheet: a large copy (bytes read and written) and a large matrix product in
bf16, on random data.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from t3d.decoding import remasking
from t3d.decoding.network import head_shape
from t3d.params import Budget


@dataclass(frozen=True)
class Machine:
    """Measured rates of a device: `bandwidth` (byte/s) and `arithmetic` (FLOP/s)."""

    name: str
    bandwidth: float
    arithmetic: float


@dataclass(frozen=True)
class Forward:
    """What a forward must read (bytes) and do (floating-point operations)."""

    read: float
    operations: float


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(function: Callable[[], Any], device: torch.device, repeats: int = 10) -> float:
    """Of one call, after three that warm up."""
    taken = []
    for _ in range(3 + repeats):
        wait(device)
        begun = time.perf_counter()
        function()
        wait(device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[3:])


def measure_machine(device: torch.device) -> Machine:
    """The rates of a device; on a CPU with small tensors, since nobody's decision hangs on them."""
    gpu = device.type == "cuda"
    source = torch.randint(0, 255, (2**32 if gpu else 2**26,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / median_seconds(lambda: target.copy_(source), device)
    size = 8192 if gpu else 256
    kind = torch.bfloat16 if gpu else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    multiplying = median_seconds(lambda: left @ right, device)
    name = torch.cuda.get_device_name(device) if gpu else "CPU"
    return Machine(name, bandwidth, 2 * size**3 / multiplying)


def forwards(model: Any, batch: int, budget: Budget | None, context: float) -> list[Forward]:
    """The forwards that write a block of every sequence, or, without a budget, a token of every sequence.

    Weights are read once a forward, keys and values of `context` positions of each sequence once. The first forward of
    a block also writes the keys and values of the block before, which are computed again from its final tokens. Logits
    are needed where a token is still masked.
    """
    config, item = model.config, model.lm_head.weight.element_size()
    heads, kv_heads, width = head_shape(model)
    hidden, layers = config.hidden_size, config.num_hidden_layers
    matrices = layers * hidden * ((2 * heads + 2 * kv_heads) * width + 3 * config.intermediate_size)
    head = config.vocab_size * hidden
    read = (matrices + head + batch * context * layers * 2 * kv_heads * width) * item
    row = 2 * matrices + 4 * layers * heads * width * context
    if budget is None:
        return [Forward(read, batch * (row + 2 * head))]
    assert budget.steps is not None
    masked, found = budget.block_size, []
    for step in range(budget.steps):
        rows = budget.block_size * (2 if step == 0 else 1)
        found.append(Forward(read, batch * (rows * row + masked * 2 * head)))
        masked -= int(remasking.quota(budget, torch.tensor(step + 1)))
    return found


def floor_seconds(work: list[Forward], machine: Machine) -> float:
    """The least time that these forwards take."""
    return sum(max(each.read / machine.bandwidth, each.operations / machine.arithmetic) for each in work)
