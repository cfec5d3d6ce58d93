"""Jobs on a machine with several GPUs."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from t3d.models.device import claim

CLAIM = (
    "import sys; from pathlib import Path; from t3d.models.device import claim;"
    "print(claim(['first', 'second'], Path(sys.argv[1])), flush=True); sys.stdin.read()"
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Start a process that claims one of two and keeps it: the process, and which it claimed."""
    started = []

    def start() -> tuple[subprocess.Popen[str], int]:
        line = [sys.executable, "-c", CLAIM, str(tmp_path)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_jobs_spread_evenly_and_a_killed_one_makes_room(start):
    jobs = [start() for _ in range(4)]
    assert [number for _, number in jobs] == [0, 1, 0, 1]
    killed, _ = jobs[1]
    killed.kill()
    killed.wait()
    assert start()[1] == 1
    assert start()[1] == 0


def test_a_claim_lasts_as_long_as_its_process(tmp_path):
    assert claim(["only"], tmp_path) == 0
    assert claim(["only", "other"], tmp_path) == 1
