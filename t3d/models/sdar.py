"""SDAR: Qwen3 or Qwen2 weights with block-causal attention, registered with transformers' Auto classes as `sdar`.

Loads and saves Hugging Face folders without `trust_remote_code`. The model predicts the token *at* a masked position
(no shift). `t3d/decoding/decoder.py` decodes with it, `t3d/distillation/trainer.py` trains it.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM, apply_rotary_pos_emb
from transformers.utils import logging
from typing_extensions import TypedDict

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError, reading
from t3d.models.folder import MAKE_AGAIN, SDARConfig, check_folder
from t3d.models.masks import PADDING, block_causal
from t3d.params.json_files import open_record, read_json

Model = TypeVar("Model", bound=PreTrainedModel)
_FORMATS = ("F64", "F32", "F16", "BF16")
BLOCK_SPARSE = "block_sparse"
"""The attention implementation of `packed.py`."""


class SDARForCausalLM(Qwen3ForCausalLM):
    """Qwen3 or Qwen2 whose attention is block-causal; weights have their names and shapes (see `SDARConfig`)."""

    config_class = SDARConfig
    config: SDARConfig

    def __init__(self, config: SDARConfig) -> None:
        """Build Qwen3's layers, then give them what Qwen2's have instead where the configuration says so."""
        super().__init__(config)
        for layer in self.model.layers:
            attention = layer.self_attn
            if not config.qk_norm:
                attention.q_norm, attention.k_norm = nn.Identity(), nn.Identity()
            if config.qkv_bias:
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                    projection.bias = nn.Parameter(torch.zeros(projection.out_features))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ):
        """Logits `[batch, length, vocabulary]` of the token at each position.

        Args:
            input_ids: `[batch, length]`; masked positions hold the mask token.
            attention_mask: a boolean mask `[batch, queries, keys]` from `t3d.models.masks`; or padding, 1 for a token,
                `[batch, length]`; or None. In the last two cases attention is block-causal with `config.block_size`.
            position_ids: `[batch, length]`, counted from 0 at the first token of the prompt.
        """
        mask, position_ids = self._prepare(input_ids, attention_mask, position_ids, **kwargs)
        return super().forward(input_ids, attention_mask=mask, position_ids=position_ids, **kwargs)

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor | BlockMask, position_ids: Tensor, **kwargs: Any
    ) -> Tensor:
        """Final hidden states `[batch, length, hidden]`; `lm_head` maps those that matter to logits."""
        mask, position_ids = self._prepare(input_ids, attention_mask, position_ids, **kwargs)
        outputs = self.model(input_ids, attention_mask=mask, position_ids=position_ids, **kwargs)
        return outputs.last_hidden_state

    def generate(self, *_: Any, **__: Any) -> Any:
        """Refuse: transformers would write one token after another, which this model was not trained for."""
        raise ParameterError(
            "this model writes blocks of tokens, and transformers' generate() one token after another. Call "
            'generate(model, tokenizer, input_ids, "b4s2") of t3d.decoding.decoder: blocks of 4 tokens in 2 steps.'
        )

    def write_keys(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, cache: Any) -> None:
        """Write the keys and values that `hidden_states` writes, without what the last layer does for its output."""
        mask, position_ids = self._prepare(input_ids, attention_mask, position_ids)
        *layers, last = self.model.layers
        hidden = self.model.embed_tokens(input_ids)
        rotation = self.model.rotary_emb(hidden, position_ids)
        options = {"attention_mask": mask, "position_embeddings": rotation, "position_ids": position_ids}
        for layer in layers:
            hidden = layer(hidden, past_key_values=cache, use_cache=True, **options)
        attention, hidden = last.self_attn, last.input_layernorm(hidden)
        heads = (*hidden.shape[:-1], -1, attention.head_dim)
        keys = attention.k_norm(attention.k_proj(hidden).view(heads)).transpose(1, 2)
        values = attention.v_proj(hidden).view(heads).transpose(1, 2)
        cache.update(apply_rotary_pos_emb(keys, keys, *rotation)[1], values, attention.layer_idx)

    def _prepare(self, input_ids, attention_mask, position_ids, past_key_values=None, inputs_embeds=None, **_):
        if isinstance(attention_mask, BlockMask):
            return attention_mask, position_ids
        tokens = input_ids if input_ids is not None else inputs_embeds
        batch, length = tokens.shape[:2]
        if attention_mask is None or attention_mask.dim() == 2:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            valid = torch.ones(batch, past + length, dtype=torch.bool, device=tokens.device)
            if attention_mask is not None:
                valid = attention_mask.bool()
            positions = (valid.long().cumsum(1) - 1).clamp(min=0)
            blocks = torch.where(valid, positions // self.config.block_size, PADDING)
            attention_mask = block_causal(blocks[:, past:], blocks)
            # A query in the padding sees itself, since softmax over an empty row is NaN.
            attention_mask[:, torch.arange(length), past + torch.arange(length)] = True
            position_ids = positions[:, past:] if position_ids is None else position_ids
        mask, dtype = attention_mask[:, None], self.lm_head.weight.dtype
        implementation = self.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ParameterError(f"attention implementation {implementation!r} is not supported; use sdpa or eager")
        # Eager attention adds its mask: a boolean one would be added as 0 and 1, silently. Of a boolean one on a CPU
        # PyTorch makes the same in each layer.
        if implementation == "eager" or (mask.device.type == "cpu" and not torch.is_autocast_enabled("cpu")):
            least = torch.finfo(dtype).min if implementation == "eager" else float("-inf")
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, least)
        return mask, position_ids


AutoModelForCausalLM.register(SDARConfig, SDARForCausalLM, exist_ok=True)


def load_model(folder: str | Path, device: str | torch.device = "cpu", dtype: str = "float32") -> SDARForCausalLM:
    """Load an SDAR folder for inference (`eval` mode), in number format `dtype`.

    Raises:
        MissingInputError: there is no such folder or no `config.json` in it.
        ParameterError: the folder holds another kind of model.
        CorruptArtefactError: as `load_weights`.
    """
    folder = check_folder(folder)
    model = load_weights(SDARForCausalLM, folder, device, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.eval()


def load_weights(kind: type[Model], folder: Path, device: str | torch.device = "cpu", **options: Any) -> Model:
    """Load a model of class `kind` from a folder, every weight from its file and finite.

    transformers alone would draw a weight that is missing at random and say so in a warning.

    Args:
        kind: its class.
        folder: a Hugging Face folder.
        device: where it goes.
        options: of `from_pretrained`.

    Raises:
        MissingInputError, CorruptArtefactError: as `check_weights`, or not every number of a weight is finite.
    """
    check_weights(kind, folder)
    # A job would print one for every model that it loads or saves, beside its own progress.
    logging.disable_progress_bar()
    with reading(folder, MAKE_AGAIN, fault="its weights cannot be loaded"):
        model: Any = kind.from_pretrained(folder, use_safetensors=True, trust_remote_code=False, **options)
    model.to(device)
    # The least and the largest number of each: they are NaN where a number is, and take no memory of their own.
    weights = dict(model.named_parameters())
    finite = torch.stack([torch.stack(weight.aminmax()).isfinite().all() for weight in weights.values()])
    for name, is_finite in zip(weights, finite.tolist(), strict=True):
        if not is_finite:
            raise CorruptArtefactError(f"{folder}: weight {name} holds NaN or infinity. {MAKE_AGAIN}")
    return model


def check_weights(kind: type[PreTrainedModel], folder: Path) -> None:
    """Compare the headers of a folder's weights with its `config.json`: seconds, and before any memory is taken.

    Raises:
        MissingInputError: a file is missing.
        CorruptArtefactError: a weight is missing, unexpected, of another shape or no floating-point number.
    """
    found = _shapes(folder)
    config: Any = kind.config_class
    with reading(folder / "config.json", MAKE_AGAIN, fault="describes no model"), torch.device("meta"):
        model: Any = kind(config.from_pretrained(folder))
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if model.config.tie_word_embeddings and "lm_head.weight" not in found:
        del wanted["lm_head.weight"]
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            here, there = found.get(key, "missing"), wanted.get(key, "not there")
            raise CorruptArtefactError(
                f"{folder}: weight {key} is {here}; by its config.json it should be {there}. {MAKE_AGAIN}"
            )


@open_record
class _Index(TypedDict):
    weight_map: dict[str, Annotated[str, Field(pattern=r"^[\w.-]+$")]]


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Weight -> shape, from the headers of the folder's safetensors files."""
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(read_json(index, _Index, MAKE_AGAIN)["weight_map"].values()))
    shapes: dict[str, tuple[int, ...]] = {}
    for path in (folder / name for name in files):
        if not path.is_file():
            raise MissingInputError(f"{path} is missing: the weights of {folder} are not complete. {MAKE_AGAIN}")
        # What safetensors says of a file that may not be read has no number of the system's.
        path.open("rb").close()
        with reading(path, MAKE_AGAIN), safe_open(path, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                part = weights.get_slice(key)
                if part.get_dtype() not in _FORMATS:
                    raise ValueError(f"{key} is of type {part.get_dtype()}")
                shapes[key] = tuple(part.get_shape())
    return shapes
