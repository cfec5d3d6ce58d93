"""Autoregressive folders, of Qwen2 and of Qwen3: loaded whole, or not at all."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from t3d.decoding.request import Request
from t3d.errors import CorruptArtefactError, ServingError
from t3d.evaluation import vllm_client
from t3d.models import autoregressive
from t3d.params import Benchmark
from tests.conftest import SHAPES, tiny_autoregressive
from tests.started import vllm_environment

NORM = "model.norm.weight"


@pytest.fixture(params=SHAPES)
def saved(request, tmp_path):
    """A model and the folder it was saved to."""
    model = tiny_autoregressive(request.param, eos_token_id=5)
    model.save_pretrained(tmp_path / "ar")
    return model, tmp_path / "ar"


def damage(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


def serve(folder, monkeypatch):
    """Ask an environment of vLLM's that ends at once."""
    monkeypatch.setattr(vllm_client, "VLLM", vllm_environment(folder.parent, "/bin/false"))
    asked = Benchmark(label="B", prompts="q", task="gsm_boxed", max_new_tokens=8)
    vllm_client.answer(folder, [Request([8, 9], 0, "q1")], asked, "cpu", "float32")


def test_a_folder_is_loaded_as_it_was_saved(saved):
    model, folder = saved
    loaded = autoregressive.load_model(folder)
    assert type(loaded) is type(model)
    ids = torch.tensor([[8, 9, 10]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_whole_folder_is_given_to_vllm(saved, monkeypatch):
    with pytest.raises(ServingError, match="vLLM ended with status 1"):
        serve(saved[1], monkeypatch)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda weights: weights.pop(NORM), f"weight {NORM} is missing"),
        (lambda weights: weights[NORM].fill_(float("nan")), f"weight {NORM} holds NaN or infinity"),
    ],
)
def test_a_damaged_folder_is_neither_loaded_nor_served(saved, monkeypatch, edit, told):
    _, folder = saved
    damage(folder, edit)
    with pytest.raises(CorruptArtefactError, match=told):
        autoregressive.load_model(folder)
    with pytest.raises(CorruptArtefactError, match=told):
        serve(folder, monkeypatch)
