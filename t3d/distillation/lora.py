"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, in the place of full-parameter tuning.

The teacher's weights stay; every matrix W of attention and MLP becomes W + alpha / rank * B A, and A and B are trained.
After training they are added up, so that a student's folder is the same as any other's.
"""

import torch
from peft import LoraConfig, LoraModel

from t3d.models.sdar import SDARForCausalLM
from t3d.params import Lora

_MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(model: SDARForCausalLM, spec: Lora, seed: int) -> LoraModel:
    """Put adapters into `model`, in place, and freeze all else; `merge_and_unload` of what is returned takes them out.

    At first they change nothing: A is drawn from `seed`, B is zero.
    """
    config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, lora_dropout=0.0, target_modules=_MATRICES)
    # peft draws from PyTorch's global generators.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LoraModel(model, {"default": config}, "default")
