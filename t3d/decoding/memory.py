"""How much of a GPU's memory a batch takes, checked before anything is decoded."""

from typing import Any

import torch

from t3d.decoding.network import head_shape
from t3d.errors import MemoryTooSmallError
from t3d.params import Sampling


def check_memory(model: Any, slots: int, capacity: int, size: int, sample: Sampling) -> None:
    """Compare the memory that decoding needs with what the GPU has free; does nothing on a CPU.

    Raises:
        MemoryTooSmallError: it does not fit; the message says which batch size does.
    """
    if model.device.type != "cuda":
        return
    free, total = torch.cuda.mem_get_info(model.device)
    # What PyTorch keeps for itself can be used again.
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    one = bytes_per_slot(model, capacity, size, sample)
    room = int(free * 0.95 // one)
    if slots > room:
        raise MemoryTooSmallError(
            f"batch_size {slots} needs {slots * one / 1e9:.1f} GB beside the weights (prompt and response of "
            f"{capacity} tokens), the GPU has {free / 1e9:.1f} of {total / 1e9:.1f} GB free. "
            + (
                f"Choose a batch_size of at most {room}."
                if room
                else "Choose a shorter max_new_tokens or a larger GPU."
            )
        )


def bytes_per_slot(model: Any, capacity: int, size: int, sample: Sampling) -> int:
    """Upper bound of the bytes that one sequence takes beside the weights: cache, activations, and drawing a token."""
    config = model.config
    item = model.lm_head.weight.element_size()
    _, kv_heads, width = head_shape(model)
    cache = config.num_hidden_layers * capacity * 2 * kv_heads * width * item
    # Both the denoised block and the finished one before it.
    activations = 2 * size * (4 * config.hidden_size + 4 * config.intermediate_size) * item
    # Logits, in float32, once more while one token is left out; the tempered distribution in float64.
    drawing = size * config.vocab_size * (item + 8 + (32 if sample.temperature else 0))
    return cache + activations + drawing
