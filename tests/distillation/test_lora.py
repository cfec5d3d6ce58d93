"""Adapters: only they are trained, what is saved is a student like any other, and a killed run goes on."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from t3d.distillation import lora, trainer
from t3d.distributed.checkpoints import Checkpoints
from t3d.params import Lora
from t3d.terminal import cost
from tests.conftest import tiny_model
from tests.distillation.test_trainer import before_step
from tests.training import setting

SPEC = Lora(rank=2, alpha=4)
MATRICES = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


def job(name="t3d"):
    plain = setting(name, learning_rate=1e-2)
    return replace(plain, student=plain.student.model_copy(update={"lora": SPEC}))


@pytest.mark.parametrize("name", ["naive_td", "t3d"])
def test_matrices_change_by_their_rank_and_nothing_else(name):
    model, before = tiny_model(), tiny_model().state_dict()
    log = trainer.train(model, job(name))
    assert len(log) == 6
    assert model.state_dict().keys() == before.keys()
    for key, weight in model.state_dict().items():
        change = weight - before[key]
        if key.split(".")[-2] in MATRICES:
            assert 1 <= torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
        else:
            assert not change.any()


def test_a_merged_student_answers_as_the_trained_one_did():
    model, ids = tiny_model(), torch.arange(4, 24)[None]
    before = model(ids).logits
    adapters = lora.adapted(model, SPEC, seed=1)
    torch.testing.assert_close(model(ids).logits, before)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    trained = model(ids).logits
    assert not torch.allclose(trained, before, atol=1e-2)
    assert adapters.merge_and_unload() is model
    torch.testing.assert_close(model(ids).logits, trained, atol=1e-4, rtol=1e-4)


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole = tiny_model()
    log = trainer.train(whole, job())

    def killed():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_step(patch, 3, killed)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(tiny_model(), job(), Checkpoints(tmp_path, "lora"))
    resumed = tiny_model()
    assert trainer.train(resumed, job(), Checkpoints(tmp_path, "lora")) == log
    assert all(map(torch.equal, resumed.state_dict().values(), whole.state_dict().values()))


def test_adapters_belong_to_one_process_and_have_a_rank():
    assert job().student.fault_of(1) is None
    assert job().student.fault_of(2) == "lora: adapters are trained by one process, not by 2"
    with pytest.raises(ValidationError, match="rank"):
        Lora(rank=0, alpha=1)


def test_adapters_take_a_third_of_the_memory():
    whole, tuned = cost.training_memory(1.7e9, 1), cost.training_memory(1.7e9, 1, Lora(rank=16, alpha=32))
    assert (round(whole / 1e9), round(tuned / 1e9)) == (31, 10)
