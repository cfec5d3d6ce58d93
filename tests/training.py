"""Training in small: examples of random tokens, a student of each objective, a teacher's pretraining."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from t3d.distillation import trainer
from t3d.distillation.batches import TrainingJob
from t3d.distillation.examples import Example
from t3d.params import Objective, Optimizer, PocketModel, Pretraining, States, Student
from t3d.teachers import corpus, pretrain
from tests.conftest import MASK, tiny_model

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


def small_corpus(patch):
    """Draw SMALL's corpus from few texts and in this process."""
    patch.setattr(pretrain, "_TOKENIZER_PROBLEMS", 100)
    patch.setattr(corpus, "_DRAWS_PER_TASK", 60)
    patch.setattr(corpus, "process_pool", lambda *_, **__: ThreadPoolExecutor(1))


def student(name="t3d", **optimizer) -> Student:
    settings = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 1} | optimizer
    kind = {"sft": "random", "redi": "random", "dparallel": "full"}.get(name, "trajectory")
    return Student(
        label=name,
        prompts="p" if name == "sft" else (),
        trajectories=() if name == "sft" else "t",
        objective=Objective(name=name, **({"refresh_every": 2} if name in ("ddo", "t3d") else {})),
        states=States(kind=kind, random_tokens=0.1 if kind == "trajectory" else 0.0),
        block_size=4,
        optimizer=Optimizer(**settings),
        checkpoint_every=2,
    )


def setting(name="t3d", **optimizer) -> TrainingJob:
    rng = np.random.default_rng(0)
    examples = []
    for i in range(12):
        prompt, blocks = 3 + i, 2 + i % 3
        length = (prompt // 4 + blocks) * 4 - prompt
        step_map = [int(s) for j in range(blocks + 1) for s in rng.permutation(4) + 1][:length]
        examples.append(
            Example(f"e{i}", rng.integers(4, 97, prompt).tolist(), rng.integers(4, 97, length).tolist(), step_map)
        )
    return TrainingJob(student(name, **optimizer), examples, 4, MASK, vocabulary=97, seed=1)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# Of 8 rows in micro-batches of 2, three processes have 2, 1 and 1.
MICRO = {"micro_batch_size": 2}
SPREAD = setting("t3d", **MICRO)


def gathered(tensors):
    """Whole tensors in numpy (which pipes carry without leave of the operating system), the same in all processes."""
    found = (t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors)
    return torch.cat([tensor.detach().flatten() for tensor in found]).numpy()


def trained(job, checkpoints=None, **model):
    student = tiny_model(**model)
    log = trainer.train(student, job, checkpoints)
    return log, gathered(student.parameters())


def rehearse(model, job):
    """Work out here how a model's tensors are spread over two processes: every fork would take half a second or two."""
    # A CUDA build of PyTorch whose first backward is that of a spread model refuses backward in forks.
    torch.ones(1, requires_grad=True).sum().backward()
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    trainer.train(model, job)
    torch.distributed.destroy_process_group()


def assert_close(ours, theirs):
    """The same log and weights up to the order of sums."""
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(ours[1]), torch.from_numpy(theirs[1]), rtol=1e-5, atol=1e-5)
