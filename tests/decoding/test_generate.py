"""`generate`, what other models have as transformers' `generate()`: the Auto classes load, blocks are decoded."""

import subprocess
import sys

import pytest
import torch

from t3d.decoding.decoder import decode, generate
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import ParameterError
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Budget, Sampling
from tests.conftest import SHIPPED

PROGRAM = """
import sys, t3d.models
assert "t3d.models.sdar" not in sys.modules
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained(sys.argv[1])), type(AutoModelForCausalLM.from_pretrained(sys.argv[1])))
"""


def test_importing_models_registers_the_auto_classes():
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(SHIPPED)], capture_output=True, text=True, check=True)
    assert done.stdout.count("t3d.models.sdar.SDARForCausalLM") == 2


def test_it_decodes_as_the_decoder_does_on_either_side_of_padding(teacher, tokenizer):
    prompts = [[9, 8, 7, 6, 5], [5, 9, 30]]
    pad, sample = tokenizer.pad_token_id, Sampling(temperature=1.0)
    options = DecodingOptions(24, stop_ids(SHIPPED), mask_id(tokenizer), sample)
    requests = [Request(prompt, 7 + row) for row, prompt in enumerate(prompts)]
    expected = [r.ids[: r.length] for r in decode(teacher, requests, Budget.parse("b8s4"), options)]
    for second in ([pad, pad, *prompts[1]], [*prompts[1], pad, pad]):
        ids = torch.tensor([prompts[0], second])
        mask = (ids != pad).long()
        written = generate(teacher, tokenizer, ids, "b8s4", 24, attention_mask=mask, sample=sample, seed=7)
        assert written[:, :5].equal(ids)
        for row, response in zip(written[:, 5:].tolist(), expected, strict=True):
            assert row == response + [pad] * (len(row) - len(response))


def test_what_would_write_garbage_is_refused(teacher, tokenizer):
    with pytest.raises(ParameterError, match=r"t3d\.decoding\.decoder: blocks of 4 tokens in 2 steps"):
        teacher.generate(torch.tensor([[5, 9]]), max_new_tokens=4)
    with pytest.raises(ParameterError, match="budget"):
        generate(teacher, tokenizer, torch.tensor([[5, 9]]), "b4")
