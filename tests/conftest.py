"""Small real models: an SDAR with random weights, and the shipped teacher with its tokenizer."""

from pathlib import Path

import pytest
import torch

from t3d.models.sdar import SDARConfig, SDARForCausalLM, load_model, load_tokenizer

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "shipped" / "pocket-sdar"
MASK = 3


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Jobs of the workflow are single-threaded; so are the tests, which may run beside each other."""
    torch.set_num_threads(1)


def tiny_model(seed: int = 0, **changes) -> SDARForCausalLM:
    """An SDAR of two layers with random weights large enough that its predictions differ from place to place."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "block_size": 4,
    }
    model = SDARForCausalLM(SDARConfig(**(shape | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    return model


@pytest.fixture
def model() -> SDARForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def teacher() -> SDARForCausalLM:
    return load_model(SHIPPED)


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(SHIPPED)
