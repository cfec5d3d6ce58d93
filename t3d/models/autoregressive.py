"""Autoregressive models beside the diffusion LMs: plain Qwen3 folders, which vLLM and transformers serve as they are.

`pretrain.py` makes pocket ones, `teacher.py` takes them from the hub, `t3d/evaluation/served.py` asks them.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from t3d.errors import ParameterError
from t3d.models import folder as folders


def check_folder(folder: str | Path) -> Path:
    """Check that a folder says it holds a Qwen3.

    Raises:
        MissingInputError: there is no such folder or no `config.json` in it.
        ParameterError: it holds another kind of model.
    """
    return folders.check_folder(folder, "qwen3", " of a teacher with attention: causal")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Qwen3 folder.

    Raises:
        MissingInputError: there is no such folder, or no tokenizer in it.
        ParameterError: the folder holds another kind of model, or the tokenizer has no chat template.
    """
    folder = check_folder(folder)
    tokenizer = folders.read_tokenizer(folder)
    if tokenizer.chat_template is None:
        raise ParameterError(f"{folder}: the tokenizer has no chat template.")
    return tokenizer
