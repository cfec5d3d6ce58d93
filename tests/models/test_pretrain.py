"""Pretraining a pocket teacher: the corpus, the masks, and that a few steps learn something and load again."""

import numpy as np
import pytest
import torch

from t3d.models import pretrain
from t3d.models.layout import lay_out
from t3d.models.sdar import load_model, load_tokenizer, mask_id, stop_ids
from t3d.params import PocketModel, Pretraining
from t3d.prompts.sets import encode_prompt

SMALL = Pretraining(
    model=PocketModel(
        vocab_size=400, hidden_size=32, layers=2, heads=2, key_value_heads=1, head_dim=16, intermediate_size=48
    ),
    problems=40,
    steps=12,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory, monkeypatch_module):
    monkeypatch_module.setattr(pretrain, "_TOKENIZER_PROBLEMS", 100)
    monkeypatch_module.setattr(pretrain, "_DRAWS_PER_TASK", 60)
    folder = tmp_path_factory.mktemp("pocket")
    return folder, pretrain.pretrain(SMALL, seed=0, device="cpu", folder=folder)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_folder_that_loads_and_a_loss_that_fell(made):
    folder, facts = made
    assert facts["rows"] == 40
    assert facts["loss"] < np.log(400)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert model.config.block_size == 8
    assert stop_ids(folder) == {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert mask_id(tokenizer) not in stop_ids(folder)


def test_digits_are_single_tokens_and_the_template_is_the_pretraining_text(made):
    tokenizer = load_tokenizer(made[0])
    ids = tokenizer("it is 20481", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]) for i in ids[-5:]] == list("20481")
    question = "How many are 3 and 4?"
    assert tokenizer.decode(encode_prompt(tokenizer, question)) == pretrain.chat_prompt(question)


def test_masks_are_uniform_in_number_and_stay_on_the_response():
    rows = [np.arange(8 * 40), np.arange(8 * 30)]
    layout = lay_out(rows, [5, 12], 8)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(9)
    for _ in range(60):
        masked = pretrain.mask_blocks(layout, generator)
        assert not (masked & ~layout.is_response).any()
        whole = layout.by_block(layout.is_response).all(-1)
        counts += torch.bincount(layout.by_block(masked).sum(-1)[whole], minlength=9)
    shares = counts / counts.sum()
    assert shares[0] == 0
    assert (shares[1:] - 1 / 8).abs().max() < 0.02
