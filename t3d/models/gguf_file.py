"""GGUF files: a quantised Qwen2 or Qwen3 in one file, dequantised once into a Hugging Face folder in bf16.

The package `gguf` reads the file and dequantises its tensors. Settings, tokenizer and chat template are in the file's
metadata (the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). `teacher.py` calls this for a source
that holds such a file.
"""

from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGUFReader, TokenType
from tokenizers import AddedToken
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

from t3d.errors import CorruptArtefactError, ParameterError
from t3d.models.autoregressive import KINDS

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
"""A part of a tensor's name in GGUF -> in transformers."""
_TIED = 0.1
"""Embedding and head whose difference is below this share of their norm are one matrix, stored in two precisions:
0.044 with 5-bit embeddings and an 8-bit head, above 1 for two matrices."""
_END_OF_TEXT = "<|endoftext|>"


def dequantise(path: Path, folder: Path) -> dict[str, Any]:
    """Write the model of a GGUF file as a folder: weights in bf16, configuration, tokenizer and chat template.

    Args:
        path: the file.
        folder: where the folder's files go.

    Returns:
        What a receipt says of the file: its model's name, the numbers of tensors by number format, and whether
        embedding and head are tied.

    Raises:
        ParameterError: it holds another architecture than Qwen2 or Qwen3, or another kind of tokenizer.
        CorruptArtefactError: it is not a whole GGUF file.
    """
    try:
        reader = GGUFReader(path)
        values = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError) as error:
        raise CorruptArtefactError(f"{path} is not a whole GGUF file: {error}. Fetch or copy it again.") from error
    kind = values.get("general.architecture")
    if kind not in KINDS:
        raise ParameterError(f"{path}: general.architecture is {kind!r}, supported are {', '.join(KINDS)}.")
    try:
        tokenizer = _tokenizer(path, values)
        weights = {_name(tensor.name): _dequantised(tensor) for tensor in reader.tensors}
        head, embedding = weights.get("lm_head.weight"), weights["model.embed_tokens.weight"]
        tied = head is None or bool((head - embedding).norm() < _TIED * head.norm())
        if tied and head is not None:
            # The more precise of the two, for both.
            weights["model.embed_tokens.weight"] = head
        ends = [values["tokenizer.ggml.eos_token_id"], tokenizer.get_vocab().get(_END_OF_TEXT)]
        config = _config(kind, values, tied, len(embedding))
    except KeyError as error:
        raise CorruptArtefactError(f"{path} has no {error}, which a {kind} needs.") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).bfloat16()
    _check(path, weights, model.state_dict())
    model.load_state_dict({name: weights.get(name, embedding).bfloat16() for name in model.state_dict()}, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        eos_token_id=sorted({end for end in ends if end is not None}), pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    formats = [tensor.tensor_type.name for tensor in reader.tensors]
    return {
        "name": values.get("general.name"),
        "tensors": {name: formats.count(name) for name in sorted(set(formats))},
        "tied": tied,
    }


def _name(name: str) -> str:
    """Name of a tensor in transformers: `blk.3.attn_q.bias` is `model.layers.3.self_attn.q_proj.bias`."""
    *layer, part, kind = name.split(".")
    prefix = f"model.layers.{layer[1]}." if layer else ""
    return f"{prefix}{_NAMES[part]}.{kind}"


def _dequantised(tensor: Any) -> Tensor:
    # GGUF lists dimensions in reverse order.
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(values.reshape(tuple(int(size) for size in reversed(tensor.shape))).copy())


def _check(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(weights.keys() | expected.keys()):
        if name == "lm_head.weight" and (name not in weights or name not in expected):
            continue
        shapes = [tuple(each[name].shape) if name in each else "missing" for each in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise CorruptArtefactError(
                f"{path}: weight {name} is {shapes[0]}; by its metadata it should be {shapes[1]}."
            )


def _config(kind: str, values: dict[str, Any], tied: bool, vocabulary: int) -> Any:
    def value(name: str) -> Any:
        return values[f"{kind}.{name}"]

    heads = value("attention.head_count")
    fields = {
        "vocab_size": vocabulary,
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv"),
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": value("rope.freq_base")},
        "tie_word_embeddings": tied,
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values.get("tokenizer.ggml.padding_token_id"),
    }
    if kind == "qwen3":
        fields["head_dim"] = values.get("qwen3.attention.key_length", fields["hidden_size"] // heads)
    return AutoConfig.for_model(kind, **fields)


def _tokenizer(path: Path, values: dict[str, Any]) -> Qwen2Tokenizer:
    kind, way = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.pre")
    if (kind, way) != ("gpt2", "qwen2"):
        raise ParameterError(
            f"{path}: its tokenizer is {kind!r} with pre-tokenizer {way!r}, supported: 'gpt2', 'qwen2'."
        )
    tokens, types = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    of_type = {kind: [i for i, each in enumerate(types) if each == kind] for kind in TokenType}
    # Ids that only fill the embeddings up are no tokens of the text.
    vocabulary = {tokens[i]: i for i in of_type[TokenType.NORMAL]}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary
        | {tokens[i]: i for kind in (TokenType.CONTROL, TokenType.USER_DEFINED) for i in of_type[kind]},
        merges=[tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]],
        eos_token=tokens[values["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[values.get("tokenizer.ggml.padding_token_id", values["tokenizer.ggml.eos_token_id"])],
        clean_up_tokenization_spaces=False,
    )
    added = sorted(of_type[TokenType.CONTROL] + of_type[TokenType.USER_DEFINED])
    tokenizer.add_tokens(
        [AddedToken(tokens[i], special=types[i] == TokenType.CONTROL, normalized=False) for i in added]
    )
    tokenizer.chat_template = values.get("tokenizer.chat_template")
    return tokenizer
