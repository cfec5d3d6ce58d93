"""Jobs on a machine with several GPUs."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from t3d.distributed import gpus, launch
from t3d.distributed.gpus import claim, held
from t3d.errors import ParameterError
from t3d.params import find


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], tuple[BaseProcess, int]]]:
    """Start a process that claims one of two and keeps it: the process, and which it claimed.

    Forked, it loads no PyTorch again.
    """
    context = multiprocessing.get_context("fork")
    started = []

    def run(said: Connection) -> None:
        said.send(claim(["first", "second"], 1, tmp_path))
        time.sleep(600)

    def start() -> tuple[BaseProcess, int]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        started.append(process)
        (number,) = ours.recv()
        return process, number

    yield start
    for process in started:
        process.kill()
        process.join()


def test_jobs_spread_evenly_and_a_killed_one_makes_room(start):
    jobs = [start() for _ in range(4)]
    assert [number for _, number in jobs] == [0, 1, 0, 1]
    for killed in (0, 1, 3):
        jobs[killed][0].kill()
        jobs[killed][0].join()
    # One is left, on the first.
    assert [start()[1] for _ in range(3)] == [1, 0, 1]


def test_a_claim_lasts_as_long_as_its_process(tmp_path):
    assert claim(["a", "b", "c"], 2, tmp_path) == [0, 1]
    assert claim(["a", "b", "c"], 2, tmp_path) == [0, 2]
    assert claim(["b"], 1, tmp_path) == [0]


def test_a_job_knows_how_many_share_what_it_has(start, tmp_path):
    assert held(["first", "second"], tmp_path) == [0, 0]
    jobs = [start() for _ in range(3)]
    assert held(["first", "second"], tmp_path) == [2, 1]
    jobs[0][0].kill()
    jobs[0][0].join()
    assert held(["first", "second"], tmp_path) == [1, 1]


def test_what_others_put_where_claims_are_is_left_alone(tmp_path):
    (tmp_path / "victim").write_text("kept")
    prefix = f"t3d-{os.getuid()}-"
    os.mkfifo(tmp_path / f"{prefix}a.fifo")
    (tmp_path / f"{prefix}a.link").symlink_to(tmp_path / "victim")
    (tmp_path / f"{prefix}a.folder").mkdir()
    assert held(["a"], tmp_path) == [0]
    assert claim(["a"], 1, tmp_path) == [0]
    assert held(["a"], tmp_path) == [1]
    lock = tmp_path / f"{prefix}claims.lock"
    for make in (lambda: lock.symlink_to(tmp_path / "victim"), lambda: os.mkfifo(lock), lambda: lock.mkdir()):
        if lock.is_dir():
            lock.rmdir()
        else:
            lock.unlink()
        make()
        with pytest.raises(OSError, match=r"symbolic links|not a file of this user|Is a directory"):
            held(["a"], tmp_path)
    assert (tmp_path / "victim").read_text() == "kept"


def test_nobody_knows_how_many_share_a_gpu_where_claims_cannot_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(gpus.torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="uuid-0"))
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    assert [gpus.jobs_on_gpu("cpu"), gpus.jobs_on_gpu("cuda")] == [None, None]
    claim(["uuid-0"], 1, tmp_path)
    assert gpus.jobs_on_gpu("cuda:0") == 1
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    assert gpus.jobs_on_gpu("cuda") is None


def test_where_claims_cannot_be_written_the_first_gpus_are_taken(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path / "nowhere"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=number))
    assert gpus.claim_gpus(2) == [0, 1]
    assert "jobs are not spread over GPUs" in capsys.readouterr().err


def test_processes_that_do_one_job_get_the_gpus_that_are_free(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"uuid-{number}"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    claim(["uuid-0"], 1, tmp_path)
    experiment = find("demo").model_copy(update={"device": "cuda"})
    launch._claim_gpus(experiment, "training_processes", 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"
    with pytest.raises(ParameterError, match="training_processes: 4 processes on this node need a GPU each"):
        launch._claim_gpus(experiment, "training_processes", 4)


def test_an_experiment_that_needs_a_gpu_says_what_to_do_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = r"params/demo\.yaml: device is cuda, .*on a machine with a GPU, or set `device: auto` .*t3d doctor"
    with pytest.raises(ParameterError, match=said):
        gpus.device_of(find("demo").model_copy(update={"device": "cuda"}))
