"""Autoregressive models beside the diffusion LMs: plain Qwen2 and Qwen3 folders, which vLLM and transformers serve.

`pretrain.py` makes pocket ones, `teacher.py` takes them from the hub or from a GGUF file (`gguf_file.py`),
`t3d/evaluation/vllm_client.py` asks them, and `t3d/teachers/convert.py` makes block-diffusion teachers of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from t3d.errors import ParameterError
from t3d.models import folder as folders

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

KINDS = ("qwen2", "qwen3")
"""Values of `model_type` that are supported; Qwen2.5 and Qwen2.5-Coder are `qwen2`."""


def check_folder(folder: str | Path) -> Path:
    """Check that a folder says it holds a Qwen2 or a Qwen3 whose layers all attend to everything before.

    Raises:
        MissingInputError: there is no such folder or no `config.json` in it.
        ParameterError: it holds another kind of model, or one with sliding windows.
    """
    folder = folders.check_folder(folder, KINDS, " of a teacher with attention: causal")
    if folders.read_config(folder).get("use_sliding_window"):
        raise ParameterError(
            f"{folder}/config.json: use_sliding_window is true; only models with full attention are supported."
        )
    return folder


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of an autoregressive folder.

    Raises:
        MissingInputError: there is no such folder, or no tokenizer in it.
        ParameterError: the folder holds another kind of model, or the tokenizer has no chat template.
    """
    return folders.read_tokenizer(check_folder(folder))


def load_model(folder: str | Path, device: "str | torch.device" = "cpu", dtype: str = "float32") -> "PreTrainedModel":
    """Load an autoregressive folder for inference (`eval` mode), in number format `dtype`.

    Raises:
        MissingInputError, ParameterError: as `check_folder`.
        CorruptArtefactError: not all weights are there, or not all are finite.
    """
    # Imported here: commands that only tokenise start two seconds sooner.
    import torch

    from t3d.models.sdar import load_weights

    folder = check_folder(folder)
    dtype = getattr(torch, dtype)
    return load_weights(class_of(folder), folder, device, dtype=dtype, attn_implementation="sdpa").eval()


def class_of(folder: Path) -> "type[PreTrainedModel]":
    """The class of the model that a checked folder holds."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

    return Qwen2ForCausalLM if folders.read_config(folder)["model_type"] == "qwen2" else Qwen3ForCausalLM
