"""An SDAR folder as the hub has them, with random weights: true field names, vocabulary and shapes, no download.

    python -m benchmarks.published --size 1.7b --out hub/sdar     # or 4b, or tiny

Benchmarks measure with it and tests run the whole chain on it. It writes nothing worth reading.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from t3d.errors import in_a_sentence
from t3d.models.folder import MASK_TOKEN, SDARConfig
from t3d.models.sdar import SDARForCausalLM

SIZES = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 4, "key_value_heads": 2, "head_dim": 8},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "layers": 28, "heads": 16, "key_value_heads": 8},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "layers": 36, "heads": 32, "key_value_heads": 8},
}
"""Shapes of Qwen3-1.7B and Qwen3-4B, whose weights SDAR starts from, and a tiny one."""
VOCABULARY = 151_936
MASK_ID = 151_669
_ORDINARY = 151_643
# Qwen's special tokens in the order of their ids; the 26 that follow the ordinary ones end where SDAR's mask begins.
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|unused_{i}|>" for i in range(23)), MASK_TOKEN]
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write(folder: Path, size: str = "tiny", tied: bool = False, shard_size: str = "5GB", scale: float = 1.0) -> None:
    """Write a folder: config, generation config, tokenizer, and sharded bf16 weights.

    Args:
        folder: where.
        size: a key of `SIZES`.
        tied: the head shares the embedding's weights.
        shard_size: largest weights file.
        scale: factor on the random weight matrices; larger ones make predictions that differ from place to place.
    """
    shape = SIZES[size]
    config = {
        "architectures": ["SDARForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_sdar.SDARConfig",
            "AutoModel": "modeling_sdar.SDARForCausalLM",
            "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
        },
        "block_size": 4,
        "bos_token_id": _ORDINARY,
        "eos_token_id": _ORDINARY,
        "fuse_cross_entropy": True,
        "head_dim": shape.get("head_dim", 128),
        "hidden_act": "silu",
        "hidden_size": shape["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": shape["intermediate_size"],
        "mask_token_id": MASK_ID,
        "max_position_embeddings": 32768,
        "max_window_layers": shape["layers"],
        "model_type": "sdar",
        "num_attention_heads": shape["heads"],
        "num_hidden_layers": shape["layers"],
        "num_key_value_heads": shape["key_value_heads"],
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.52.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = SDARForCausalLM._from_config(SDARConfig.from_pretrained(folder), dtype=torch.bfloat16)
    if scale != 1.0:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(scale)
    model.save_pretrained(folder, max_shard_size=shard_size)
    # What was saved is transformers' wording; a published folder has its own.
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    generation = {"eos_token_id": [_ORDINARY + 2, _ORDINARY], "pad_token_id": _ORDINARY, "temperature": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))
    _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    """Bytes are tokens, and the rest of the vocabulary is filler: text is long, ids are where they should be."""
    vocabulary = {character: index for index, character in enumerate(bytes_to_unicode().values())}
    vocabulary |= {f"filler{index}": index for index in range(len(vocabulary), _ORDINARY)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    assert tokenizer.token_to_id(MASK_TOKEN) == MASK_ID
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "chat_template": _TEMPLATE,
        "eos_token": "<|im_end|>",
        "mask_token": MASK_TOKEN,
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def main() -> None:
    """Write a folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="1.7b", help="whose shapes")
    parser.add_argument("--tied", action="store_true", help="one matrix for embedding and head")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    write(given.out, given.size, given.tied)
    print(f"{given.out}: {sum(p.stat().st_size for p in given.out.iterdir()) / 1e9:.2f} GB")


if __name__ == "__main__":
    with in_a_sentence():
        main()
