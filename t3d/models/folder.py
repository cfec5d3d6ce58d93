"""What a model's folder says before its weights are loaded: the kind of model, its settings, tokenizer and special ids.

Commands that only tokenise import this module and not `sdar.py`, and so start two seconds sooner.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from t3d.errors import MissingInputError, ParameterError

MASK_TOKEN = "<|MASK|>"
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


class SDARConfig(Qwen3Config):
    """Qwen3's configuration plus the block size the model was trained for.

    Two fields say what Qwen2's layers have and Qwen3's have not, and the reverse: `qkv_bias`, biases of the query, key
    and value projections, and `qk_norm`, a norm of every head's queries and keys. The defaults are Qwen3's, which
    published SDAR folders are.
    """

    model_type = "sdar"
    block_size: int = 4
    qkv_bias: bool = False
    qk_norm: bool = True


AutoConfig.register("sdar", SDARConfig)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of an SDAR folder.

    Raises:
        MissingInputError: there is no such folder, or no tokenizer in it.
        ParameterError: the tokenizer has no mask token `<|MASK|>` or no chat template.
    """
    folder = check_folder(folder)
    tokenizer = read_tokenizer(folder)
    if MASK_TOKEN not in tokenizer.get_vocab():
        raise ParameterError(f"{folder}: the tokenizer has no mask token {MASK_TOKEN}; this is not an SDAR folder.")
    if tokenizer.chat_template is None:
        raise ParameterError(f"{folder}: the tokenizer has no chat template.")
    return tokenizer


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, whatever it can do; raises `MissingInputError` if there is none."""
    # Without any, transformers makes an empty one for some kinds of model.
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise MissingInputError(f"{folder} holds no readable tokenizer: there is no {' or '.join(_TOKENIZERS)}.")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise MissingInputError(f"{folder} holds no readable tokenizer: {str(error).splitlines()[0]}") from error


def mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the mask token."""
    return tokenizer.get_vocab()[MASK_TOKEN]


def stop_ids(folder: str | Path) -> frozenset[int]:
    """Ids that end a response: every `eos_token_id` of the generation config and of the config.

    Published chat models name the end of the text in one and the end of the turn in the other.

    Raises:
        ParameterError: neither names any.
    """
    folder = Path(folder)
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        ids = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        found |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    if not found:
        raise ParameterError(f"{folder}: neither generation_config.json nor config.json has eos_token_id.")
    return frozenset(found)


def check_folder(folder: str | Path, kinds: Sequence[str] = ("sdar",), whose: str = "") -> Path:
    """Check that a folder says it holds a model of one of `kinds`, each a `model_type` of transformers.

    Raises:
        MissingInputError: there is no such folder or no `config.json` in it.
        ParameterError: it holds another kind of model; `whose` ends the message.
    """
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise MissingInputError(f"{folder} holds no model: there is no {config}.")
    found = json.loads(config.read_text()).get("model_type")
    if found not in kinds:
        expected = " or ".join(map(repr, kinds))
        raise ParameterError(f"{config}: model_type is {found!r}, expected {expected}{whose}.")
    return folder
