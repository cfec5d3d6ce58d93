"""Several processes that are killed, or whose states are damaged, go on and end as if never stopped."""

import os
import shutil
import signal

import pytest
import torch

from t3d.distillation import trainer
from t3d.distributed import collectives
from t3d.distributed.checkpoints import Checkpoints
from tests.started import error_of
from tests.training import SPREAD, assert_close, trained


@pytest.fixture(scope="module")
def alone():
    """What one process trains."""
    return trained(SPREAD)


@pytest.fixture(scope="module")
def unbroken(in_processes):
    """What two processes train that are left alone, in each of them."""
    return in_processes(lambda _: trained(SPREAD))


def equal(ours, theirs):
    """Whether all processes have the same log and weights, bit for bit."""
    return all(a[0] == b[0] and (a[1] == b[1]).all() for a, b in zip(ours, theirs, strict=True))


def resumed(folder):
    """Train with the states in `folder`; the main process cleans it before the others look."""
    with collectives.raise_on_all_ranks():
        checkpoints = Checkpoints(folder, "recipe")
    return trained(SPREAD, checkpoints)


def steps_found(in_processes, folder):
    """The step of the newest whole state, as each of two processes sees it."""
    return in_processes(lambda _: Checkpoints(folder, "recipe").latest()["step"])


def dying(monkeypatch, step, count, in_processes, folder):
    """Kill all processes at the beginning of a step."""
    original = trainer._step

    def dies(*given):
        if given[-1] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_step", dies)
        if count > 1:
            assert in_processes(lambda _: resumed(folder), count) == [None] * count
        else:
            patch.setattr(trainer, "_step", lambda *given: original(*given) if given[-1] < step else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                resumed(folder)


@pytest.fixture(scope="module")
def stopped(in_processes, tmp_path_factory):
    """States of two processes that were killed in step 6."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, 5, 2, in_processes, folder)
    return folder


@pytest.mark.parametrize("killed", [1, 3])
def test_a_killed_and_resumed_run_ends_bitwise_equal(in_processes, unbroken, monkeypatch, tmp_path, killed):
    dying(monkeypatch, killed, 2, in_processes, tmp_path)
    again = in_processes(lambda _: resumed(tmp_path))
    assert equal(unbroken, again)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_another_number_of_processes_goes_on(in_processes, alone, stopped, monkeypatch, tmp_path, before, after):
    """Weights to 1e-5 those of one process from the beginning, from whose state they go on exactly."""
    if before == 2:
        shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    else:
        dying(monkeypatch, 5, before, in_processes, tmp_path)
    stored = sorted(path.name for path in tmp_path.glob("step-*.pt"))
    of = [""] if before == 1 else [f".{rank}-of-{before}" for rank in range(before)]
    assert stored == [f"step-000000{step}{part}.pt" for step in (2, 4) for part in of]
    monkeypatch.setattr(trainer, "_say", (said := []).append)
    found, *_ = in_processes(lambda _: resumed(tmp_path), after) if after > 1 else [resumed(tmp_path)]
    assert after > 1 or said[0].startswith("distill: resuming after step 4 (state read in ")
    assert_close(found, alone)


@pytest.mark.parametrize(
    ("moment", "victim", "trained_on"),
    [("half written", 0, True), ("half written", 1, False), ("replaced", 0, False), ("replaced", 1, True)],
)
def test_a_process_that_is_killed_while_a_state_is_written_costs_that_state_alone(
    in_processes, unbroken, monkeypatch, tmp_path, moment, victim, trained_on
):
    """What is left is a state of both; from one of either step they go on."""
    save, replace = torch.save, os.replace

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def saves(state, file):
        here = collectives.rank() == victim and state["step"] == 4
        if here and moment == "half written":
            file.write(b"half")
            die()
        save(state, file)

    def replaces(partial, path):
        replace(partial, path)
        if collectives.rank() == victim and "step-0000004" in path.name:
            die()

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", saves)
        if moment == "replaced":
            patch.setattr(os, "replace", replaces)
        assert None in in_processes(lambda _: resumed(tmp_path))
    assert {"step-0000002.0-of-2.pt", "step-0000002.1-of-2.pt"} <= {path.name for path in tmp_path.iterdir()}
    if trained_on:
        assert equal(unbroken, in_processes(lambda _: resumed(tmp_path)))
    else:
        assert steps_found(in_processes, tmp_path) in ([[2, 2]] if moment == "half written" else [[2, 2], [4, 4]])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("after", [1, 2])
def test_one_flipped_bit_in_any_part_costs_its_state_alone(in_processes, stopped, tmp_path, rank, after):
    """Also where a single process reads the parts of two."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    part = tmp_path / f"step-0000004.{rank}-of-2.pt"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    if after == 2:
        assert steps_found(in_processes, tmp_path) == [2, 2]
    else:
        assert Checkpoints(tmp_path, "recipe").latest()["step"] == 2
    assert not list(tmp_path.glob("step-0000004*"))


def test_a_full_disk_in_one_process_is_one_message_and_keeps_the_last_state(in_processes, monkeypatch, tmp_path):
    save = torch.save

    def full(state, file):
        if collectives.rank() == 1 and state["step"] == 4:
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        main, other = in_processes(lambda _: error_of(resumed, tmp_path))
    assert main.startswith(f"TrainingError: cannot write the training state {tmp_path}/step-0000004.1-of-2.pt: ")
    assert "No space left on device. The last good state is kept" in main
    assert other == "SystemExit: 0"
    assert Checkpoints(tmp_path, "recipe").latest()["step"] == 2


def test_processes_that_see_different_folders_are_told(in_processes, tmp_path):
    def run(rank):
        checkpoints = Checkpoints(tmp_path / str(rank), "recipe")
        if rank == 0:
            torch.save({"step": 2}, tmp_path / "0" / "step-0000002.pt")
        return error_of(checkpoints.latest)

    main, other = in_processes(run)
    assert "one process reads the state of step 2, another that of step 0. Every node must see this folder" in main
    assert other == "SystemExit: 0"
