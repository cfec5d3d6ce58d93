"""Autoregressive models beside the diffusion LMs: plain Qwen3 folders, which vLLM and transformers serve as they are.

`pretrain.py` makes pocket ones, `teacher.py` takes them from the hub, `t3d/evaluation/served.py` asks them.
"""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from t3d.errors import MissingInputError, ParameterError


def check_folder(folder: str | Path) -> Path:
    """Check that a folder says it holds a Qwen3.

    Raises:
        MissingInputError: there is no such folder or no `config.json` in it.
        ParameterError: it holds another kind of model.
    """
    config = Path(folder) / "config.json"
    if not config.is_file():
        raise MissingInputError(f"{folder} holds no model: there is no {config}.")
    found = json.loads(config.read_text()).get("model_type")
    if found != "qwen3":
        raise ParameterError(
            f"{config}: model_type is {found!r}, expected 'qwen3' of a teacher with attention: causal."
        )
    return Path(folder)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a Qwen3 folder.

    Raises:
        MissingInputError: there is no such folder, or no tokenizer in it.
        ParameterError: the folder holds another kind of model, or the tokenizer has no chat template.
    """
    folder = check_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise MissingInputError(f"{folder} holds no readable tokenizer: {str(error).splitlines()[0]}") from error
    if tokenizer.chat_template is None:
        raise ParameterError(f"{folder}: the tokenizer has no chat template.")
    return tokenizer


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of one user turn in the model's own chat template, up to where the answer begins.

    Qwen3's chat models would think aloud first; they are asked not to, as the diffusion LMs made of them do not. A
    template without that switch ignores it.
    """
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]
