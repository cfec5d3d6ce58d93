"""SDAR: Qwen3 or Qwen2 weights with block-causal attention, registered with transformers' Auto classes as `sdar`.

Loads and saves Hugging Face folders without `trust_remote_code`. The model predicts the token *at* a masked position
(no shift). `t3d/decoding/decoder.py` decodes with it, `t3d/distillation/trainer.py` trains it.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from t3d.errors import CorruptArtefactError, ParameterError
from t3d.models.folder import SDARConfig, check_folder
from t3d.models.masks import PADDING, block_causal

Model = TypeVar("Model", bound=PreTrainedModel)
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
        mask = attention_mask[:, None]
        implementation = self.config._attn_implementation
        if implementation == "eager":
            # Eager attention adds its mask: a boolean one would be added as 0 and 1, silently.
            dtype = self.lm_head.weight.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        elif implementation != "sdpa":
            raise ParameterError(f"attention implementation {implementation!r} is not supported; use sdpa or eager")
        return mask, position_ids


AutoModelForCausalLM.register(SDARConfig, SDARForCausalLM)


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
        CorruptArtefactError: weights cannot be read, one is missing, unexpected or of another shape, or not every
            number of one is finite; the message names it.
    """
    try:
        loaded: Any = kind.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CorruptArtefactError(f"{folder}: its weights cannot be loaded: {str(error).strip()}") from error
    model, found = loaded
    for fault in ("missing", "unexpected", "mismatched"):
        # A mismatched weight comes with its two shapes.
        if names := sorted(key if isinstance(key, str) else key[0] for key in found[f"{fault}_keys"]):
            more = f", and {len(names) - 1} more" if names[1:] else ""
            raise CorruptArtefactError(f"{folder}: going by its config.json, weight {names[0]} is {fault}{more}.")
    model.to(device)
    # The least and the largest number of each: they are NaN where a number is, and take no memory of their own.
    weights = dict(model.named_parameters())
    finite = torch.stack([torch.stack(weight.aminmax()).isfinite().all() for weight in weights.values()])
    for name, is_finite in zip(weights, finite.tolist(), strict=True):
        if not is_finite:
            raise CorruptArtefactError(f"{folder}: weight {name} holds NaN or infinity. Make or fetch the model again.")
    return model
