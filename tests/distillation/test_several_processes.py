"""Two processes train the student that one process trains, are ended and go on, and fail with one message."""

import json
import os
import signal
import socket
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from t3d import params
from t3d.distillation import losses, trainer
from t3d.distributed import collectives
from t3d.models.sdar import load_model
from tests.artefacts import made
from tests.conftest import SHIPPED, tiny_model
from tests.started import Fork, error_of, finish, set_up, t3d, typed
from tests.training import MICRO, rehearse, setting

EXPERIMENT = """
device: cpu
teachers: {pocket: {source: shipped, path: data/shipped/pocket-sdar}}
prompt_sets: {gsm: {teacher: pocket, split: train, count: 8, difficulty: {max_steps: 2, max_number: 99}}}
trajectories: {gsm: {prompts: gsm, budget: b8s8, batch_size: 12, max_new_tokens: 40}}
students:
  t3d:
    label: T3D
    trajectories: gsm
    objective: {name: t3d, refresh_every: 3}
    states: {kind: trajectory, random_tokens: 0.1}
    rows: {max_response_tokens: 24}
    # Three micro-batches for two processes: one of them has more to do.
    optimizer: {steps: 5, batch_size: 6, micro_batch_size: 2, learning_rate: 4.0e-4}
    checkpoint_every: 2
"""
TEACHER, SHARD = "data/small/teachers/pocket.manifest.json", "data/small/trajectories/gsm/0-of-1.manifest.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A working directory with a small experiment, its rollouts, and the student that one process trains."""
    folder = set_up(tmp_path_factory.mktemp("project"), "small", EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = params.find("small")
        made(small, folder / "data" / "small", "trajectories/gsm/0-of-1")
        trainer.make(small, "t3d-seed0", folder / TEACHER, [folder / SHARD], folder / "work", out(folder, "one"))
    return folder


def out(project, name):
    return project / name / "t3d-seed0.manifest.json"


def distill(project, name, data=SHARD):
    """`t3d distill --processes 2`, the student to lie in folder `name`."""
    line = ["distill", "--experiment", "small", "--run", "t3d-seed0", "--teacher", TEACHER]
    line += ["--work", f"work-{name}", "--processes", "2", "--out", str(out(project, name))]
    return [*line, "--data", data]


def log_of(project, name):
    lines = (out(project, name).parent / "t3d-seed0" / "training.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights_of(project, name):
    return load_file(out(project, name).parent / "t3d-seed0" / "model.safetensors")


@pytest.fixture(scope="module")
def two(project, in_processes):
    """Two processes train the student that lies in `two/`."""
    rehearse(load_model(SHIPPED), setting("t3d", steps=2, **MICRO))
    assert in_processes(lambda _: typed(project, distill(project, "two"))) == ["SystemExit: 0"] * 2


def test_two_processes_train_the_same_student(project, two):
    """The log to 1e-5, the weights, which are stored in bfloat16, to one of its 256 steps."""
    one, other = log_of(project, "one"), log_of(project, "two")
    assert [entry["step"] for entry in other] == list(range(1, 6))
    for ours, theirs in zip(one, other, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, rel=1e-5), (ours["step"], key)
    ours, theirs = weights_of(project, "one"), weights_of(project, "two")
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=2**-7, atol=1e-6)
    equal = sum(int((theirs[key] == value).sum()) for key, value in ours.items())
    assert equal > 0.99 * sum(value.numel() for value in ours.values())
    receipt = json.loads((project / "two" / "t3d-seed0.receipt.json").read_text())
    assert receipt["processes"] == 2
    assert receipt["seconds_per_step"] > 0
    assert receipt["tokens_per_second"] > 0
    assert not (project / "work-two" / "t3d-seed0").exists()


def test_terminated_then_killed_processes_go_on_and_end_as_if_never_stopped(
    project, two, in_processes, monkeypatch, capfd
):
    """One of two is told to end in step 3, both are killed in step 5; two launchers do the rest, one in a fork."""
    states, original = project / "work-ended" / "t3d-seed0", trainer._step

    def stopping(at, number):
        def step(*given):
            if given[-1] == at and number in (signal.SIGKILL, signal.SIGTERM * collectives.rank()):
                os.kill(os.getpid(), number)
            return original(*given)

        monkeypatch.setattr(trainer, "_step", step)
        return in_processes(lambda _: typed(project, distill(project, "ended")))

    assert stopping(2, signal.SIGTERM) == ["SystemExit: 143"] * 2
    said = capfd.readouterr()
    assert said.out.count("terminated after step 3; run again to resume") == 1
    assert "Traceback" not in said.err
    assert {path.name[:12] for path in states.glob("step-*.pt")} == {"step-0000002", "step-0000003"}
    assert stopping(4, signal.SIGKILL) == [None, None]
    monkeypatch.undo()
    # As srun starts one on each of two nodes.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        there = {"T3D_RENDEZVOUS": f"127.0.0.1:{free.getsockname()[1]}", "T3D_NODES": "2"}
    starts = enumerate((subprocess.Popen, Fork))
    launchers = [t3d(project, distill(project, "ended"), start, SLURM_NODEID=str(n), **there) for n, start in starts]
    assert [finish(launcher).count("resuming after step 4") for launcher in launchers] == [1, 0]
    for name in ("training.jsonl", "model.safetensors"):
        paths = [out(project, folder).parent / "t3d-seed0" / name for folder in ("two", "ended")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_wrong_input_is_one_message(project, in_processes, capfd):
    line = distill(project, "wrong", data="data/small/trajectories/gsm/1-of-2.manifest.json")
    assert in_processes(lambda _: typed(project, line)) == ["SystemExit: 1", "SystemExit: 0"]
    errors = capfd.readouterr().err
    assert errors.count("t3d: data/small/trajectories/gsm/1-of-2.manifest.json is missing: make it first") == 1
    assert "Traceback" not in errors
    assert not (project / "wrong" / "t3d-seed0").exists()


def test_a_loss_that_is_not_finite_in_one_process_ends_both(in_processes, monkeypatch):
    compute = losses.compute

    def faulty(*given):
        loss, parts = compute(*given)
        return loss * float("nan") if collectives.rank() == 1 else loss, parts

    monkeypatch.setattr(losses, "compute", faulty)
    job = setting("naive_td", micro_batch_size=2)
    # The main process says what happened in the other one, which says nothing itself.
    main, other = in_processes(lambda _: error_of(trainer.train, tiny_model(), job))
    assert main.startswith("TrainingError: step 1: the loss is nan on samples e")
    assert other == "SystemExit: 0"
