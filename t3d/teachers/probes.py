"""Prompts that a model in conversion answers at three moments: is it becoming a decoder, whatever its loss says?

No gold answers are needed. What is measured is how many answers end by themselves, and how likely the autoregressive
model finds them, compared with its own recorded answers to the same prompts.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.distillation.examples import Example
from t3d.distributed import collectives, fsdp
from t3d.models import autoregressive
from t3d.models.folder import mask_id, stop_ids
from t3d.models.lm_head import log_probabilities
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Budget, Conversion, Experiment

_MAX_NEW_TOKENS = 256
_TEXTS = 3
"""Answers whose text goes into the receipt, ..."""
_LONGEST = 600
"""... so many characters of each."""


class Probes:
    """The prompts, the optimizer steps after which they are decoded (`moments`), and the model that judges answers."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        conversion: Conversion,
        device: str,
        seed: int,
    ) -> None:
        """Choose `conversion.probes` of the examples by `seed`; `folder` holds the autoregressive model."""
        self.folder, self.tokenizer, self.device, self.seed = folder, tokenizer, device, seed
        self.examples = random.Random(seed).sample(list(examples), min(conversion.probes, len(examples)))
        size = min(conversion.block_sizes)
        self.budget = Budget(block_size=size, steps=size)
        self.moments = {round(conversion.steps * share / 3) for share in (1, 2, 3)}

    def decode(self, model: SDARForCausalLM) -> dict[str, Any]:
        """Decode the probes one token per step with the smallest block; all processes must call this.

        Returns:
            `complete`: share of answers that ended by themselves; `response_tokens`: their mean length;
            `nll`: mean negative log-likelihood of a token under the autoregressive model (nats), `own_nll`: that of its
            own answers; and the first texts.
        """
        copied = fsdp.decodable(model, self.device)
        found: dict[str, Any] = {}
        if collectives.is_main():
            stops = stop_ids(self.folder)
            requests = [Request(example.prompt_ids, self.seed) for example in self.examples]
            options = DecodingOptions(_MAX_NEW_TOKENS, stops, mask_id(self.tokenizer), batch_size=len(requests))
            responses = decode(copied, requests, self.budget, options)
            own = [_until_stop(example.response_ids, stops) for example in self.examples]
            ids = [response.ids[: response.length] for response in responses]
            found = {
                "complete": sum(r.finish_reason == "stop" for r in responses) / len(responses),
                "response_tokens": sum(map(len, ids)) / len(ids),
                "nll": self._nll(ids),
                "own_nll": self._nll(own),
                "texts": [self.tokenizer.decode(each, skip_special_tokens=True)[:_LONGEST] for each in ids[:_TEXTS]],
            }
        with collectives.raise_on_all_ranks():
            return found

    @torch.inference_mode()
    def _nll(self, responses: Sequence[Sequence[int]]) -> float:
        """Mean over tokens of -log p(x_i | x_<i) under the autoregressive model."""
        causal = autoregressive.load_model(self.folder, self.device, "bfloat16" if "cuda" in self.device else "float32")
        total = tokens = 0.0
        for example, response in zip(self.examples, responses, strict=True):
            ids = torch.tensor([*example.prompt_ids, *response], device=self.device)
            hidden: Tensor = causal.model(ids[None, :-1], use_cache=False).last_hidden_state[0]
            states = hidden[len(example.prompt_ids) - 1 :]
            weight = causal.lm_head.weight
            total -= float(log_probabilities(states, weight, ids[None, len(example.prompt_ids) :]).double().sum())
            tokens += len(response)
        return total / tokens


def _until_stop(ids: Sequence[int], stops: frozenset[int]) -> list[int]:
    end = next((number + 1 for number, token in enumerate(ids) if token in stops), len(ids))
    return list(ids[:end])
