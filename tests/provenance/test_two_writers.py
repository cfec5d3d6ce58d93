"""Two processes that write one artefact: one of them does, and the other says which."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t3d.errors import BusyError, T3DError
from t3d.params import Experiment
from t3d.provenance import store, writer
from t3d.provenance.files import atomic_write, exclusive

EXPERIMENT = Experiment(
    name="x",
    teachers={"m": {"source": "pretrain", "pretraining": {}}},
    prompt_sets={"p": {"teacher": "m", "split": "test", "count": 3}},
)
PAIRS = 15


def write(out, text, seconds=0.0):
    with writer.writing(EXPERIMENT, "prompts/p", out) as job:
        for part in range(3):
            (job.folder() / f"{part}.txt").write_text(text)
            time.sleep(seconds / 3)
        job.file(".jsonl").write_text(text)
        job.facts["text"] = text


def in_a_process(function, *arguments):
    """Start a process; its exit status is 2 after an error of T3D, whose message it writes to a pipe."""
    read, said = os.pipe()
    child = os.fork()
    if child:
        os.close(said)
        return child, read
    status = 3
    try:
        function(*arguments)
        status = 0
    except T3DError as error:
        os.write(said, f"{type(error).__name__}: {error}".encode())
        status = 2
    except BaseException as error:
        os.write(said, repr(error).encode())
    finally:
        os._exit(status)


def ended(child, read):
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return os.waitstatus_to_exitcode(status), pipe.read()


def check(out):
    """The artefact is whole and of one writer, and nothing else is there."""
    manifest = store.read(out, kind="prompts")
    texts = {manifest.facts["text"], manifest.file(".jsonl").read_text()}
    texts |= {(manifest.folder() / f"{part}.txt").read_text() for part in range(3)}
    assert len(texts) == 1
    assert sorted(path.name for path in out.parent.iterdir()) == ["p", "p.jsonl", "p.manifest.json", "p.receipt.json"]
    return texts.pop()


def pairs():
    """Run by itself, since it forks: fifteen pairs of writers at random moments; prints how each pair ended."""
    chance, outcomes = random.Random(0), []
    for pair in range(PAIRS):
        out = Path(f"pair{pair}", "p.manifest.json")
        moments = [chance.uniform(0, 0.12) for _ in range(2)]

        def late(number, out=out, moments=moments):
            time.sleep(moments[number])
            write(out, str(os.getpid()), 0.06)

        children = [in_a_process(late, number) for number in range(2)]
        results = [ended(*child) for child in children]
        winners = [child for (child, _), (status, _) in zip(children, results, strict=True) if status == 0]
        assert check(out) in map(str, winners), results
        for status, said in results:
            assert status in (0, 2), said
            if status == 2:
                expected = f"BusyError: prompts/p is being written by process {winners[0]} on {socket.gethostname()}; "
                assert said.startswith(expected), said
        outcomes.append(len(winners))
    print(json.dumps(outcomes))


def kill():
    """Run by itself: a writer that is killed leaves what the next one removes."""
    out = Path("killed", "p.manifest.json")
    write(out, "old")
    child, read = in_a_process(write, out, "half", 60.0)
    while not list(Path("killed").glob("p.partial/*/p/*.txt")):
        time.sleep(0.01)
    with pytest.raises(BusyError, match=f"process {child} on"):
        write(out, "second")
    assert store.read(out).facts["text"] == "old"
    os.kill(child, signal.SIGKILL)
    assert ended(child, read)[0] == -signal.SIGKILL
    assert Path("killed", "p.partial").is_dir()
    write(out, "next")
    assert check(out) == "next"


def run_alone(function, folder):
    root = Path(__file__).parents[2]
    # Without git's half a second, writers do not always meet.
    code = f"""
import sys
sys.path.insert(0, {str(root)!r})
from tests.provenance import test_two_writers
test_two_writers.writer.environment.git_commit = lambda: None
test_two_writers.{function}()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_of_two_writers_one_wins_and_the_other_says_which(tmp_path):
    outcomes = json.loads(run_alone("pairs", tmp_path))
    assert len(outcomes) == PAIRS
    assert 1 in outcomes


def test_a_killed_writer_is_in_nobodys_way(tmp_path):
    run_alone("kill", tmp_path)


def test_what_an_older_version_left_is_removed(tmp_path):
    (tmp_path / "p.partial" / "p").mkdir(parents=True)
    (tmp_path / "p.partial" / "p.jsonl").write_text("half")
    write(tmp_path / "p.manifest.json", "whole")
    assert check(tmp_path / "p.manifest.json") == "whole"
    (tmp_path / ".table.csv.partial").write_text("half")
    with atomic_write(tmp_path / "table.csv") as partial:
        partial.write_text("x")
    assert (tmp_path / "table.csv").read_text() == "x"
    assert not (tmp_path / ".table.csv.partial").exists()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "writer").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), exclusive(tmp_path / "a.partial", "a"):
        pass
    assert (tmp_path / "victim").read_text() == "kept"
