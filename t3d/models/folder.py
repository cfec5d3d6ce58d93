"""What a model's folder says before its weights are loaded: the kind of model, its settings, tokenizer and special ids.

Commands that only tokenise import this module and not `sdar.py`, and so start two seconds sooner.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import Field
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from typing_extensions import TypedDict

from t3d.errors import MissingInputError, ParameterError, reading
from t3d.params.json_files import open_record, read_json

MASK_TOKEN = "<|MASK|>"
_MASK_TOKENS = (MASK_TOKEN, "<|mask|>")
"""SDAR's spelling, which is ours, and dllm's."""
MAKE_AGAIN = "Make, fetch or copy the model again."
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

    def to_dict(self) -> dict[str, Any]:
        """The fields of `config.json`, `rope_theta` where transformers 4 and SGLang's SDAR read it as well."""
        fields = super().to_dict()
        return fields | {"rope_theta": (fields.get("rope_parameters") or {}).get("rope_theta")}

    @classmethod
    def get_config_dict(cls, *args: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a folder's `config.json`; those of a conversion by dllm or OPDLM in our words."""
        fields, rest = super().get_config_dict(*args, **options)
        return _in_our_words(fields), rest


def _in_our_words(fields: dict[str, Any]) -> dict[str, Any]:
    if not str(fields.get("model_type")).startswith("a2d-"):
        return fields
    # Their block size is chosen when they decode; 32 is dllm's default.
    own = {"block_size": 32, "qkv_bias": fields["model_type"] == "a2d-qwen2"}
    return own | {"qk_norm": not own["qkv_bias"]} | fields | {"model_type": SDARConfig.model_type}


class _A2DQwen3Config(SDARConfig):
    model_type = "a2d-qwen3"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """`AutoConfig` gives the fields as they are in the file."""
        return SDARConfig.from_dict(_in_our_words(config_dict), **options)


class _A2DQwen2Config(_A2DQwen3Config):
    model_type = "a2d-qwen2"


DIFFUSION = ("sdar", "a2d-qwen3", "a2d-qwen2")
"""Kinds of block-diffusion models that `SDARForCausalLM` is; the last two are conversions by dllm or OPDLM."""
for _config in (SDARConfig, _A2DQwen3Config, _A2DQwen2Config):
    # transformers asks for the kind of model before it loads a tokenizer.
    AutoConfig.register(_config.model_type, _config)


class _Later(type):
    """Stands for a class of `sdar.py`, which takes its place among the Auto classes when it is first asked for."""

    def __getattr__(cls, name: str) -> Any:
        from t3d.models.sdar import SDARForCausalLM

        return getattr(SDARForCausalLM, name)


class _SDARForCausalLM(metaclass=_Later):
    config_class = SDARConfig


AutoModelForCausalLM.register(SDARConfig, _SDARForCausalLM)
_Count = Annotated[int, Field(ge=1, le=2**20)]
_Ids = int | list[int] | None


@open_record
class Config(TypedDict, total=False):
    """What is read of `config.json` and `generation_config.json`; the limits stop a number that no model has."""

    model_type: str
    vocab_size: Required[Annotated[int, Field(ge=1, le=2**24)]]
    hidden_size: Required[_Count]
    num_hidden_layers: Required[Annotated[int, Field(ge=1, le=1000)]]
    num_attention_heads: Required[Annotated[int, Field(ge=1, le=4096)]]
    num_key_value_heads: Annotated[int, Field(ge=1, le=4096)]
    intermediate_size: _Count
    head_dim: Annotated[int, Field(ge=1, le=4096)] | None
    block_size: Annotated[int, Field(ge=1, le=4096)]
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**24)]
    rope_parameters: dict[str, Any] | None
    use_sliding_window: bool | None
    eos_token_id: _Ids


@open_record
class _Kind(TypedDict, total=False):
    model_type: Any


@open_record
class _Generation(TypedDict, total=False):
    eos_token_id: _Ids


def read_config(folder: Path) -> Config:
    """The settings in a folder's `config.json`; raises as `read_json`, and ParameterError."""
    config = read_json(folder / "config.json", Config, MAKE_AGAIN)
    heads, shared = config["num_attention_heads"], config.get("num_key_value_heads", 1)
    if heads % shared:
        raise ParameterError(
            f"{folder / 'config.json'}: num_key_value_heads {shared} does not divide num_attention_heads {heads}."
        )
    return config


def load_tokenizer(folder: str | Path, mask_token: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a block-diffusion model's folder.

    Conversions by dllm were trained on Qwen3's chat template without thinking, which is switched off for them.

    Args:
        folder: where it is.
        mask_token: the mask token, if the folder does not name it.

    Raises:
        MissingInputError: there is no such folder, or no tokenizer in it.
        ParameterError: the tokenizer has no mask token, chat template, end-of-text or padding token.
        CorruptArtefactError: a file of it cannot be read.
    """
    folder = check_folder(folder)
    tokenizer = read_tokenizer(folder)
    if mask_token is not None:
        if mask_token not in tokenizer.get_vocab():
            raise ParameterError(f"{folder}: mask_token {mask_token!r} is no token of its vocabulary.")
        tokenizer.mask_token = mask_token
    if _mask_token(tokenizer) is None:
        raise ParameterError(
            f"{folder}: the tokenizer has no mask token ({' or '.join(_MASK_TOKENS)}, or mask_token in "
            "tokenizer_config.json). If this is a block-diffusion model, say which it is: `mask_token` of the teacher."
        )
    if read_json(folder / "config.json", _Kind, MAKE_AGAIN).get("model_type") != SDARConfig.model_type:
        without_thinking(tokenizer)
    for name in ("eos_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise ParameterError(f"{folder}/tokenizer_config.json names no {name}, which ends or fills a response.")
    if (mask := mask_id(tokenizer)) >= (size := read_config(folder)["vocab_size"]):
        raise ParameterError(f"{folder}: the mask token is number {mask}, vocab_size in config.json is {size}.")
    return tokenizer


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, whatever else it can do.

    Raises:
        MissingInputError: there is none.
        ParameterError: it has no chat template.
        CorruptArtefactError: a file of it cannot be read.
    """
    # Without any, transformers makes an empty one for some kinds of model.
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise MissingInputError(f"{folder} holds no readable tokenizer: there is no {' or '.join(_TOKENIZERS)}.")
    with reading(f"{folder}: its tokenizer or chat_template", MAKE_AGAIN):
        # Code of a folder's own is never run; unless it is told, transformers would ask.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ParameterError(f"{folder}: the tokenizer has no chat template (chat_template.jinja).")
    return tokenizer


def without_thinking(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the chat template, if it can think aloud, ask for an answer without."""
    switch, template = "{%- set enable_thinking = false %}\n", str(tokenizer.chat_template)
    if "enable_thinking" in template and not template.startswith(switch):
        tokenizer.chat_template = switch + template


def mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the mask token; raises KeyError if there is none, which `load_tokenizer` checks."""
    return tokenizer.get_vocab()[_mask_token(tokenizer) or MASK_TOKEN]


def _mask_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token that stands for what is not yet written."""
    vocabulary = tokenizer.get_vocab()
    return next((token for token in (tokenizer.mask_token, *_MASK_TOKENS) if token in vocabulary), None)


def stop_ids(folder: str | Path) -> frozenset[int]:
    """Ids that end a response: every `eos_token_id` of the generation config and of the config.

    Published chat models name the end of the text in one and the end of the turn in the other.

    Raises:
        ParameterError: neither names any, or one is not in the vocabulary.
    """
    folder = Path(folder)
    config, path = read_config(folder), folder / "generation_config.json"
    found: dict[int, str] = {}
    for file, settings in (
        (path.name, read_json(path, _Generation, MAKE_AGAIN) if path.is_file() else {}),
        ("config.json", config),
    ):
        ids = settings.get("eos_token_id")
        found |= dict.fromkeys(ids if isinstance(ids, list) else [] if ids is None else [ids], file)
    if not found:
        raise ParameterError(f"{folder}: neither generation_config.json nor config.json has eos_token_id.")
    for number, file in found.items():
        if not 0 <= number < config["vocab_size"]:
            raise ParameterError(
                f"{folder / file}: eos_token_id {number}, but vocab_size in config.json is {config['vocab_size']}."
            )
    return frozenset(found)


def check_folder(folder: str | Path, kinds: Sequence[str] = DIFFUSION, whose: str = "") -> Path:
    """Check that a folder says it holds a model of one of `kinds`, each a `model_type` of transformers.

    Raises:
        MissingInputError: there is no such folder or no `config.json` in it.
        ParameterError: it holds another kind of model; `whose` ends the message.
        CorruptArtefactError: `config.json` cannot be read.
    """
    folder = Path(folder)
    config = folder / "config.json"
    if not config.is_file():
        raise MissingInputError(f"{folder} holds no model: there is no {config}.")
    found = read_json(config, _Kind, MAKE_AGAIN).get("model_type")
    if found not in kinds:
        expected = " or ".join(map(repr, kinds))
        raise ParameterError(f"{config}: model_type is {found!r}, expected {expected}{whose}.")
    read_config(folder)
    return folder
