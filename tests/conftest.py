"""Small real models: an SDAR with random weights, and the shipped teacher with its tokenizer; processes that meet."""

import gc
import multiprocessing
import os
import shutil
import socket
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    # The process of pytest that only hands out tests reads this file, too, and need not load PyTorch.
    from transformers import PreTrainedModel

    from t3d.models.sdar import SDARForCausalLM

# A worker loads a fifth faster when it looks for garbage as seldom as `t3d` does.
gc.set_threshold(100_000, 20, 20)

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "data" / "shipped" / "pocket-sdar"
MASK = 3


def pytest_collection_modifyitems(items):
    """The longest first: workers that take over from each other end together if what is left is short."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def pytest_collection_finish():
    """What is loaded by now stays: no collection of garbage looks at it again (statsmodels asks for one a table)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Jobs of the workflow are single-threaded; so are the tests, which may run beside each other."""
    import torch

    torch.set_num_threads(1)
    # Every new thread sets this number again. In a fork the first one to do so replaces PyTorch's thread pool, and a
    # second one at that moment finds none ("pool INTERNAL ASSERT FAILED"). transformers loads weights in threads.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@pytest.fixture(scope="session", autouse=True)
def one_commit():
    """Git is asked once for the commit of this repository, not twice for every artefact that a test writes."""
    from t3d.provenance import environment

    asked = environment.git_commit
    here = asked()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "git_commit", lambda code=None: asked(code) if code else here)
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)`: the folder that `make(folder)` fills, made by the first process of pytest that needs it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(name, make):
        folder, done = shared / name, shared / f"{name}-made"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


def tiny_model(seed: int = 0, **changes) -> "SDARForCausalLM":
    """An SDAR of two layers with random weights large enough that its predictions differ from place to place."""
    import torch

    from t3d.models.folder import SDARConfig
    from t3d.models.sdar import SDARForCausalLM

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


def tiny_autoregressive(kind: str, seed: int = 0, **changes) -> "PreTrainedModel":
    """A Qwen2 or Qwen3 of transformers with the shape and the weights of `tiny_model`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = tiny_model(seed, **(SHAPES[kind] | changes))
    fields = model.config.to_dict()
    for name in ("model_type", "architectures", "block_size", "qkv_bias", "qk_norm", "attention_bias"):
        fields.pop(name, None)
    causal = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields)).eval()
    causal.load_state_dict(model.state_dict())
    return causal


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture(scope="session")
def teacher():
    from t3d.models.sdar import load_model

    return load_model(SHIPPED)


@pytest.fixture(scope="session")
def tokenizer():
    from t3d.models.folder import load_tokenizer

    return load_tokenizer(SHIPPED)


@pytest.fixture(scope="session")
def box():
    from t3d.sandbox.sandbox import Sandbox

    with Sandbox() as kept:
        yield kept


@pytest.fixture(scope="session")
def in_processes():
    """Run a function of the rank in several processes that meet, and return what it returned in each.

    None for one that died; the others are then ended, as a launcher would end them. Forked, they load no PyTorch again,
    and how tensors are spread over two was worked out before: half a second of each.
    """
    from t3d.distributed import collectives
    from tests.training import SPREAD, rehearse

    rehearse(tiny_model(), SPREAD)

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
