"""Training states: the last ones are kept, whole or not at all, and a damaged one is named and is no state."""

import random
import re
import resource
import shutil
import subprocess

import pytest
import torch

from t3d.distributed.checkpoints import Checkpoints
from t3d.errors import TrainingError
from t3d.provenance import store

TENSORS = {"weights": torch.arange(600.0), "more": torch.ones(40, dtype=torch.bfloat16)}


@pytest.fixture
def run(tmp_path):
    """A folder with the states of steps 2 and 4; a test damages the second."""
    checkpoints = Checkpoints(tmp_path / "run", "recipe")
    for step in (2, 4):
        checkpoints.save(step, {"step": step, "log": [{"loss": 0.5}], **TENSORS})
    return tmp_path / "run"


def latest(folder):
    found = Checkpoints(folder, "recipe").latest()
    return found and found["step"]


def test_the_last_two_states_are_kept_and_another_recipe_starts_clean(run):
    Checkpoints(run, "recipe").save(6, {"step": 6})
    names = [f"step-000000{step}.pt{end}" for step in (4, 6) for end in ("", ".sha256")]
    assert sorted(path.name for path in run.glob("step-*")) == names
    assert latest(run) == 6
    assert Checkpoints(run, "other").latest() is None
    assert not list(run.glob("step-*"))


def test_a_state_comes_back_as_it_was_and_its_sha256_is_that_of_the_file(run):
    found = Checkpoints(run, "recipe").latest()
    assert (found["step"], found["log"]) == (4, [{"loss": 0.5}])
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    subprocess.run(
        ["sha256sum", "--check", "--strict", *sorted(p.name for p in run.glob("*.sha256"))], cwd=run, check=True
    )


def test_one_flipped_bit_anywhere_is_found(run, tmp_path):
    """In the numbers, the names, the directory of the file and between them; also in what is beside it."""
    whole = (run / "step-0000004.pt").read_bytes()
    places = [*range(0, len(whole), 41), *range(len(whole) - 60, len(whole))]
    checkpoints = Checkpoints(run, "recipe")
    bits = random.Random(0)
    assert len(places) > 150
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bits.randrange(8)
        shutil.copy(run / "step-0000004.pt.sha256", tmp_path / "kept")
        (run / "step-0000004.pt").write_bytes(damaged)
        assert checkpoints.latest()["step"] == 2, place
        assert not list(run.glob("step-0000004*"))
        shutil.move(tmp_path / "kept", run / "step-0000004.pt.sha256")
        (run / "step-0000004.pt").write_bytes(whole)
    assert latest(run) == 4
    digest = bytearray((run / "step-0000004.pt.sha256").read_bytes())
    digest[9] ^= 1
    (run / "step-0000004.pt.sha256").write_bytes(digest)
    assert latest(run) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"torn",
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:1000] + bytes(512) + content[1512:],
        lambda content: bytes(len(content)),
        lambda content: content + b"x",
    ],
    ids=["torn", "empty", "a byte short", "half", "a hole", "zeros", "longer"],
)
def test_a_damaged_state_is_named_and_an_earlier_one_is_taken(run, capsys, damage):
    state = run / "step-0000004.pt"
    state.write_bytes(damage(state.read_bytes()))
    assert latest(run) == 2
    said = capsys.readouterr().out
    assert f"{state} is damaged: its sha256 is not the one beside it: the training goes on from an earlier" in said


def test_a_state_without_a_sha256_is_none(run, capsys):
    for path in run.glob("*.sha256"):
        path.unlink()
    assert latest(run) is None
    said = capsys.readouterr().out
    for step in (2, 4):
        assert (
            f"step-000000{step}.pt has no sha256 beside it: the training goes on from an earlier state, or anew" in said
        )
    assert not list(run.glob("step-*"))


def test_the_sha256_of_another_state_does_not_do(run):
    shutil.copy(run / "step-0000002.pt", run / "step-0000004.pt")
    shutil.copy(run / "step-0000002.pt.sha256", run / "step-0000004.pt.sha256")
    assert latest(run) == 2


def test_what_pickle_would_run_is_never_loaded(run, capsys):
    """Whole, but not of tensors and numbers alone."""

    class Surprise:
        pass

    Checkpoints(run, "recipe").save(6, {"step": 6, "surprise": random.Random})
    assert latest(run) == 4
    assert "step-0000006.pt is not what this version of PyTorch reads" in capsys.readouterr().out


def test_a_full_disk_is_a_clear_error_that_keeps_the_last_state(run):
    """The operating system lets no file grow beyond a limit, while PyTorch writes one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(run, "recipe")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            TrainingError, match=r"cannot write the training state .*0000006\.pt: .*last good state is kept"
        ):
            checkpoints.save(6, {"step": 6, "weights": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert latest(run) == 4
    assert not list(run.glob("*.partial"))
    assert not list(run.glob("step-0000006*"))


def write_part(path, state):
    torch.save(state, path)
    path.with_name(f"{path.name}.sha256").write_text(f"{store.sha256(path)}  {path.name}\n")


def test_parts_of_an_unfinished_state_are_forgotten(tmp_path):
    for name in (
        "step-0000002.0-of-2.pt",
        "step-0000002.1-of-2.pt",
        "step-0000004.1-of-2.pt",
        "step-0000004.0-of-2.partial",
    ):
        write_part(tmp_path / name, {"step": int(name[11])})
    (tmp_path / "identity").write_text("recipe")
    assert Checkpoints(tmp_path, "recipe").latest()["step"] == 2
    kept = [f"step-0000002.{rank}-of-2.pt{end}" for rank in range(2) for end in ("", ".sha256")]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == kept


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "work").write_text("a file")
    folder = tmp_path / "work" / "run"
    with pytest.raises(
        TrainingError, match=rf"cannot keep training states in {re.escape(str(folder))}: .*Not a directory"
    ):
        Checkpoints(folder, "recipe")
