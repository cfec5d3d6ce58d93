"""A student spread over processes with PyTorch's FSDP2: each holds a part of its weights, gradients and AdamW's state.

Every layer's weights are gathered when it runs, forward and backward, and forgotten afterwards, so that no GPU ever
holds the model whole. Where there is room for it whole, they are gathered once per optimizer step instead. Each weight
is cut along its first dimension. Where there is one process, a model stays as it is.
`collectives.py` is what else processes tell each other, `checkpoints.py` saves the parts.
"""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from t3d.distributed import collectives

Model = TypeVar("Model", bound=PreTrainedModel)

_once: WeakSet[PreTrainedModel] = WeakSet()
"""Models whose weights are gathered once per optimizer step."""


def shard(model: PreTrainedModel, device: str) -> None:
    """Spread `model` over the processes, in place, each part on `device`.

    Weights are gathered in float32, so that autocast makes of them what it makes of a whole model's: in bf16 a norm's
    weight would not show a step of training. Gradients are summed over processes, in float32.

    Args:
        model: float32, the same in all processes; on the CPU, so that a GPU never sees more of it than one layer and
            the embeddings, or on the meta device.
        device: of this process.
    """
    if collectives.world_size() == 1:
        return
    if once := gathered_once(model, device):
        _once.add(model)
    mesh = init_device_mesh(torch.device(device).type, (collectives.world_size(),))
    # Activations are as autocast makes them: the residual stream is float32.
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in model.get_submodule("model.layers").children():
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=not once)
    # The losses read the head's weight between forward and backward, so the root is not cut up again in between.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden_states")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Shares of the batch are summed, not averaged; gloo has no other reduction.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def gathered_once(model: PreTrainedModel, device: str) -> bool:
    """Whether `model` and a reference fit on each of these GPUs whole, with half of the memory left for activations.

    Then micro-batches share what was gathered. On two H200s, a step of 1.7B parameters in eight micro-batches of each
    process waited for weights in 0.28 s of 1.68.
    """
    if not device.startswith("cuda"):
        return True
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # In float32: gradients of a step, weights of student and reference; in parts: these, the sums, and two moments.
    bytes_each = 12 + 20 / collectives.world_size()
    return bytes_each * parameters < torch.cuda.get_device_properties(device).total_memory / 2


def frozen_copy(model: Model, device: str) -> Model:
    """The reference: a copy of `model` that is not trained, spread likewise.

    Of one process on a GPU its matrices are kept as autocast would make them for every product.
    """
    if collectives.world_size() == 1:
        reference = copy.deepcopy(model).eval().requires_grad_(False)
        if model.device.type == "cuda":
            for module in reference.modules():
                # A tied head is the embedding, which is read in float32.
                if isinstance(module, nn.Linear) and module.weight is not reference.get_input_embeddings().weight:
                    module.bfloat16()
        return reference
    with torch.device("meta"):
        copied = type(model)(copy.deepcopy(model.config)).eval().requires_grad_(False)
    shard(copied, device)
    copied.to_empty(device=device)
    copied.load_state_dict(model.state_dict())
    for buffer, original in zip(copied.buffers(), model.buffers(), strict=True):
        buffer.copy_(original)
    return copied


def set_gradient_sync(model: PreTrainedModel, last: bool) -> None:
    """Say whether the next backward is the `last` of an optimizer step, after which gradients are summed.

    Until then each process adds up its own, 4 bytes a parameter on each GPU, so that a step of many micro-batches
    costs one reduction.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last or model not in _once)


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their norm, over all processes, is `limit` at most; returns the norm before."""
    return _full(torch.nn.utils.clip_grad_norm_(parameters, limit))


def gather_full_model(model: Model) -> Model:
    """`model` in bf16 in one piece: itself, or where it is spread, a copy on the CPU of the main process.

    In the other processes the copy is empty; all of them must call this.
    """
    if not isinstance(model, FSDPModule):
        return model.bfloat16()
    with torch.device("meta"):
        gathered = type(model)(model.config).bfloat16()
    weights = {}
    for name, part in model.state_dict().items():
        # One at a time: on a GPU, the embeddings are the most there is of it.
        tensor = part.bfloat16().full_tensor()
        if collectives.is_main():
            weights[name] = tensor.cpu()
    if collectives.is_main():
        gathered.load_state_dict(weights, assign=True)
        gathered.tie_weights()
    return gathered


def decodable(model: Model, device: str) -> Model:
    """A copy of `model` in bf16 on `device` that decodes as its saved folder will; all processes must call this."""
    weights = {name: _full(parameter.detach()).bfloat16() for name, parameter in model.named_parameters()}
    with torch.device(device):
        copied = type(model)(copy.deepcopy(model.config))
    # Not the module as a whole: the frequencies of its rotary embeddings stay float32.
    for name, parameter in copied.named_parameters():
        parameter.data = weights[name].to(device)
    copied.set_attn_implementation("sdpa")
    return copied.eval().requires_grad_(False)


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def to_local(state: Any) -> Any:
    """A training state with this process's parts in the place of tensors that are spread, to be saved."""
    return tree_map_only(DTensor, DTensor.to_local, state)


def load_model(model: PreTrainedModel, part: dict[str, Tensor]) -> None:
    """Give `model` the weights that `to_local` made of its `state_dict()`."""
    model.load_state_dict({name: _placed(part[name], like) for name, like in model.state_dict().items()})


def load_optimizer(optimizer: torch.optim.Optimizer, part: dict[str, Any]) -> None:
    """Give `optimizer` the state that `to_local` made of its `state_dict()`."""
    (group,) = optimizer.param_groups
    moments = {
        index: {name: _placed(value, group["params"][index]) for name, value in values.items()}
        for index, values in part["state"].items()
    }
    # Which kernel updates is this run's choice, not that of the one that saved.
    (saved,) = part["param_groups"]
    settings = {name: value for name, value in group.items() if name != "params"}
    optimizer.load_state_dict({"state": moments, "param_groups": [saved | settings]})


def _placed(part: Tensor, like: Tensor) -> Tensor:
    """The tensor that has `part` in this process, spread as `like` is; the count of steps is not."""
    if not isinstance(like, DTensor) or part.dim() == 0:
        return part
    return DTensor.from_local(
        part.to(like.device), like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )
