"""Small real models: an SDAR with random weights, and the shipped teacher with its tokenizer; processes that meet."""

import multiprocessing
import os
import socket
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from t3d.distributed import collectives
from t3d.models.folder import SDARConfig, load_tokenizer
from t3d.models.sdar import SDARForCausalLM, load_model
from t3d.sandbox.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "shipped" / "pocket-sdar"
MASK = 3


def pytest_collection_modifyitems(items):
    """The longest first: workers that take over from each other end together if what is left is short."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


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
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
            elif name.endswith("bias"):
                parameter.normal_()
    return model


SHAPES = {"qwen3": {}, "qwen2": {"qkv_bias": True, "qk_norm": False}}
"""What `tiny_model` takes to have the layers of Qwen3 or of Qwen2."""


def tiny_autoregressive(kind: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A Qwen2 or Qwen3 of transformers with the shape and the weights of `tiny_model`."""
    model = tiny_model(seed, **(SHAPES[kind] | changes))
    fields = model.config.to_dict()
    for name in ("model_type", "architectures", "block_size", "qkv_bias", "qk_norm", "attention_bias"):
        fields.pop(name, None)
    causal = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields)).eval()
    causal.load_state_dict(model.state_dict())
    return causal


@pytest.fixture
def model() -> SDARForCausalLM:
    return tiny_model()


@pytest.fixture(scope="session")
def teacher() -> SDARForCausalLM:
    return load_model(SHIPPED)


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(SHIPPED)


@pytest.fixture(scope="session")
def box():
    with Sandbox() as kept:
        yield kept


@pytest.fixture(scope="session")
def in_processes():
    """Run a function of the rank in several processes that meet, and return what it returned in each.

    None for one that died; the others are then ended, as a launcher would end them. Forked, they load no PyTorch again.
    """

    def run(function, rank, there, said):
        os.environ |= there | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        collectives.init_process_group("cpu")
        said.send(function(rank))
        said.close()
        collectives.destroy_process_group()

    def start(function, count=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        there |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
        context = multiprocessing.get_context("fork")
        started, rank_of = [], {}
        for rank in range(count):
            ours, theirs = context.Pipe(duplex=False)
            started.append(context.Process(target=run, args=(function, rank, there, theirs), daemon=True))
            started[-1].start()
            theirs.close()
            rank_of[ours] = rank
        heard = [None] * count
        while rank_of:
            found = wait(list(rank_of), timeout=180)
            assert found, "the processes wait for each other"
            for ours in found:
                rank = rank_of.pop(ours)
                try:
                    heard[rank] = ours.recv()
                except EOFError:
                    for process in started:
                        process.kill()
        for process in started:
            process.join(10)
        return heard

    return start
