"""Training: accumulation, the schedule, the reference's rounds, and runs that are killed and resumed."""

import os
import signal
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from t3d.distillation import batches, losses, trainer
from t3d.distillation.batches import micro_batches, samples_of
from t3d.distributed.checkpoints import Checkpoints
from t3d.errors import TrainingError
from t3d.params import Optimizer
from t3d.provenance import lineage
from tests.conftest import MASK, tiny_model
from tests.training import setting, student, weights


def before_step(patch, number, action):
    """Let something happen when an optimizer step begins."""
    original = trainer._step

    def step(*given):
        if given[-1] == number:
            action()
        return original(*given)

    patch.setattr(trainer, "_step", step)


@pytest.mark.parametrize("name", ["sft", "redi", "dparallel", "naive_td", "ddo", "t3d"])
def test_accumulated_gradient_equals_the_large_batch_gradient(name):
    reference = tiny_model(seed=5) if name in ("ddo", "t3d") else None
    gradients = []
    for size in (8, 2):
        model = tiny_model()
        job = setting(name, micro_batch_size=size)
        for batch in micro_batches(job, step=0):
            loss, _ = losses.compute(job.student.objective, model, reference, batch, 4)
            (loss * len(batch.ids) / 8).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-6, rtol=1e-4)


def test_fake_tokens_follow_the_reference_and_not_the_batch():
    reference = tiny_model(seed=5)
    whole = next(iter(micro_batches(setting(), 0)))
    fake, _ = losses.predict(reference, whole, "draw")
    by_id = dict(zip(whole.ids, losses.spread(fake, whole), strict=True))
    for batch in micro_batches(setting(micro_batch_size=2), 0):
        found = losses.spread(losses.predict(reference, batch, "draw")[0], batch)
        for row, item in enumerate(batch.ids):
            masked = batch.masked[row]
            assert torch.equal(found[row][masked], by_id[item][: len(masked)][masked])
    greedy, _ = losses.predict(reference, whole, "argmax")
    assert not torch.equal(greedy, fake)


def test_random_tokens_come_from_the_whole_vocabulary():
    found = set()
    for step in range(12):
        for batch in micro_batches(setting("naive_td"), step):
            swapped = batch.masked & (batch.noisy_input != MASK)
            found |= set(batch.noisy_input[swapped].tolist())
    assert len(found) > 50
    assert min(found) < 10
    assert max(found) > 87


def test_learning_rate_schedule():
    spec = Optimizer(steps=10, batch_size=1, learning_rate=1.0, warmup_steps=2, final_fraction=0.1)
    rates = [trainer.learning_rate(spec, step) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[1:]))


def test_epochs_visit_every_example_once():
    samples = [s for step in range(3) for s in samples_of(12, 8, step, seed=0)]
    for epoch in (0, 1):
        assert sorted(index for e, index in samples if e == epoch) == list(range(12))
    assert [i for e, i in samples if e == 0] != [i for e, i in samples if e == 1]


def test_training_lowers_the_loss_and_the_reference_follows():
    log = trainer.train(tiny_model(), setting("naive_td", steps=30, learning_rate=3e-3))
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    log = trainer.train(tiny_model(), setting("t3d", steps=4, learning_rate=1e-3))
    # Where a round begins (steps 1 and 3) student and reference are equal: both DDO terms are log 2.
    for entry in (log[0], log[2]):
        assert entry["real_term"] == pytest.approx(np.log(2), abs=1e-5)
        assert entry["fake_term"] == pytest.approx(np.log(2), abs=1e-5)
    for entry in (log[1], log[3]):
        assert entry["real_term"] != pytest.approx(np.log(2), abs=1e-7)


@pytest.mark.parametrize("name", ["naive_td", "t3d"])
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_and_resumed_run_ends_bitwise_equal(tmp_path, monkeypatch, name, killed_after):
    unbroken = tiny_model()
    log = trainer.train(unbroken, setting(name))

    def die():
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path / "run", "recipe")
    with monkeypatch.context() as patch:
        before_step(patch, killed_after, die)
        with pytest.raises(KeyboardInterrupt):
            trainer.train(tiny_model(), setting(name), checkpoints)
    assert (tmp_path / "run" / lineage.STEP).read_text() == f"{killed_after}\n"
    resumed = tiny_model()
    assert trainer.train(resumed, setting(name), Checkpoints(tmp_path / "run", "recipe")) == log
    assert torch.equal(weights(resumed), weights(unbroken))


def test_sigterm_saves_the_step_in_progress(tmp_path, monkeypatch):
    unbroken = tiny_model()
    trainer.train(unbroken, setting())
    with monkeypatch.context() as patch:
        before_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as stopped:
            trainer.train(tiny_model(), setting(), Checkpoints(tmp_path / "run", "recipe"))
    assert stopped.value.code == 143
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*.pt"))[-1] == "step-0000003.pt"
    resumed = tiny_model()
    trainer.train(resumed, setting(), Checkpoints(tmp_path / "run", "recipe"))
    assert torch.equal(weights(resumed), weights(unbroken))


def test_a_loss_that_is_not_finite_names_the_samples():
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan on samples e\d"):
        trainer.train(model, setting("naive_td"))


def test_recomputed_activations_change_nothing():
    kept, recomputed = tiny_model(), tiny_model()
    log = trainer.train(kept, setting(steps=3))
    layers = recomputed.model.layers
    calls = []
    layers[0].mlp.register_forward_hook(lambda *_: calls.append(recomputed.training))
    job = setting(steps=3, recompute_activations=True)
    assert trainer.train(recomputed, job) == log
    assert torch.equal(weights(kept), weights(recomputed))
    # Three steps of one micro-batch, each layer forward once and again in the backward.
    assert len(calls) == 6


def test_block_sizes_take_turns_by_step():
    job = replace(setting("redi"), block_sizes=(4, 8))
    found = [next(iter(micro_batches(job, step))).layout.block_size for step in range(4)]
    assert found == [4, 8, 4, 8]
    assert next(iter(micro_batches(setting("redi"), 1))).layout.block_size == 4


def test_what_is_noted_after_a_step_survives_a_restart(tmp_path):
    """The log, with a note on every second step, of a run that is ended in step 5 and goes on from step 4."""

    def note(log):
        if len(log) % 2 == 0:
            log[-1]["note"] = {"step": len(log), "texts": ["a"]}

    def die(log):
        note(log)
        if len(log) == 5:
            raise TrainingError("enough")

    job = setting("redi")
    every = range(1, 7)
    unbroken = trainer.train(tiny_model(), job, after_step=note, pauses_after=every)
    with pytest.raises(TrainingError, match="enough"):
        trainer.train(tiny_model(), job, Checkpoints(tmp_path, "run"), after_step=die, pauses_after=every)
    seen = []
    resumed = trainer.train(
        tiny_model(),
        job,
        Checkpoints(tmp_path, "run"),
        after_step=lambda log: (seen.append(len(log)), note(log)),
        pauses_after=every,
    )
    assert seen == [5, 6]
    assert resumed == unbroken
    assert [entry["note"]["step"] for entry in resumed if "note" in entry] == [2, 4, 6]


@pytest.mark.parametrize("name", ["redi", "t3d"])
def test_a_host_that_runs_ahead_of_its_device_learns_the_same(tmp_path, monkeypatch, name):
    """As beside a GPU: the next states are drawn, and the next step is under way, before a step's numbers are read."""

    def note(log):
        log[-1]["note"] = len(log)

    job = setting(name, micro_batch_size=4)
    plain_model, model, resumed = tiny_model(), tiny_model(), tiny_model()
    log = trainer.train(plain_model, job, after_step=note, pauses_after=(3,))
    for module in (trainer, batches):
        monkeypatch.setattr(module, "runs_apart", lambda device: True)
    pace = []
    assert trainer.train(model, job, pace=pace, after_step=note, pauses_after=(3,)) == log
    assert torch.equal(weights(model), weights(plain_model))
    # A state is due every second step. The two at the end are waited for at once, and have one time.
    assert [each.steps for each in pace] == [1, 1, 1, 1, 2]
    assert min(each.seconds for each in pace) > 0
    # Ended while it saves: all of its log is there, and it goes on as if nothing had been.
    options = {"after_step": note, "pauses_after": (3,)}
    with monkeypatch.context() as patch:
        before_step(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            trainer.train(tiny_model(), job, Checkpoints(tmp_path / "run", "recipe"), **options)
    assert trainer.train(resumed, job, Checkpoints(tmp_path / "run", "recipe"), **options) == log
    assert torch.equal(weights(resumed), weights(plain_model))


def test_the_speed_is_that_of_the_steps_after_the_first(tmp_path, monkeypatch):
    """Also where giving a GPU the next step takes as long as the step: its queue is full until it is nearly done."""
    clock = [0.0]
    original = trainer._step

    def slow(model, reference, optimizer, job, step):
        clock[0] += 2.0 if step else 60.0
        return original(model, reference, optimizer, job, step)

    monkeypatch.setattr(trainer, "_step", slow)
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for module in (trainer, batches):
        monkeypatch.setattr(module, "runs_apart", lambda device: True)
    job = setting("redi", micro_batch_size=4, steps=7)
    job = replace(job, student=job.student.model_copy(update={"checkpoint_every": 100}))
    model, pace = tiny_model(), []
    trainer.train(model, job, pace=pace)
    assert [each.seconds for each in pace] == [60.0, 4.0, 2.0, 2.0, 2.0, 2.0]
    said = receipt_of(model, pace, tmp_path)
    assert said["seconds_per_step"] == 2.0
    tokens = sum(batches.tokens_of(job, step) for step in range(1, 7))
    assert said["tokens_per_second"] == tokens / 12.0


def receipt_of(model, pace, folder):
    """What `trainer.save` notes."""
    made = SimpleNamespace(folder=lambda: folder, receipt={})
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    trainer.save(made, model, tokenizer, GenerationConfig(), [], pace, "cpu")
    return made.receipt


def test_a_run_of_one_step_has_no_speed(tmp_path, monkeypatch):
    """All that it took is to warm up; so it is where the last step alone was left after a restart."""
    job = setting("redi", steps=1, warmup_steps=0)
    model, pace = tiny_model(), []
    trainer.train(model, job, pace=pace)
    assert [each.steps for each in pace] == [1]
    assert receipt_of(model, pace, tmp_path) == {"processes": 1}
    job, pace = setting("redi", steps=4), []
    checkpoints = Checkpoints(tmp_path / "run", "recipe")
    with monkeypatch.context() as patch:
        before_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            trainer.train(tiny_model(), job, checkpoints)
    trainer.train(model, job, checkpoints, pace=pace)
    assert [each.steps for each in pace] == [1]
    assert receipt_of(model, pace, tmp_path) == {"processes": 1}


def test_a_host_that_runs_ahead_names_the_step_that_went_wrong(monkeypatch):
    """Though it has given its device the next one by then."""
    for module in (trainer, batches):
        monkeypatch.setattr(module, "runs_apart", lambda device: True)
    original, taken = trainer._step, []

    def spoilt(model, reference, optimizer, job, step):
        taken.append(step)
        if step == 2:
            model.model.norm.weight.data[0] = float("nan")
        return original(model, reference, optimizer, job, step)

    monkeypatch.setattr(trainer, "_step", spoilt)
    with pytest.raises(TrainingError, match="step 3: the loss is nan on samples e"):
        trainer.train(tiny_model(), replace(setting("redi"), student=student("redi", steps=9)))
    assert taken == [0, 1, 2, 3]
