"""Attacks, bad input and accidents, a line each in attacks.yaml and inputs.yaml: refused in a sentence, nothing lost.

`make test-faults` runs them with the kills and prints how many held.
"""

import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import pytest
import yaml
from filelock import FileLock

from t3d import cli
from tests.faults import project as small

HERE = Path(__file__).parent
SECONDS, CPU_SECONDS, MEMORY = 300, 60, 6 << 30
"""Limits of a case; a shared machine may give it little of its time."""
CASES = [
    pytest.param(case, id=f"{name}: {case['name']}")
    for name in ("attacks", "inputs")
    for case in yaml.safe_load((HERE / f"{name}.yaml").read_text())
]
COMMANDS = yaml.safe_load((HERE / "commands.yaml").read_text())


@pytest.fixture(scope="session")
def origin(tmp_path_factory):
    """The project that cases copy, made by the first process of pytest that needs it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "faults-origin"
    here = Path.cwd()
    with FileLock(shared / "faults.lock"):
        if not (shared / "faults-made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            small.make(folder)
            os.chdir(here)
            (shared / "faults-made").touch()
    return folder


def typed(lines: list[list[str]]) -> int:
    """Type lines in this process, a fork, until one ends badly; its status."""
    for line in lines:
        sys.argv = ["t3d", *map(small.spelled, line)]
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                return end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            return 70
    return 0


def run(folder: Path, case: dict) -> tuple[int, str]:
    """Status and output of what a case types, in a fork that may take neither long nor much."""
    lines = case["t3d"] if isinstance(case["t3d"], list) else COMMANDS[case["t3d"]]
    lines = [lines] if isinstance(lines[0], str) else lines
    heard, spoken = os.pipe()
    child = os.fork()
    if child == 0:
        status = 71
        try:
            os.chdir(folder)
            small.damage(dict(case.get("do", {})))
            os.dup2(spoken, 1)
            os.dup2(spoken, 2)
            os.close(spoken)
            os.close(heard)
            if "output" in case:
                os.dup2(closed_pipe() if case["output"] == "closed" else os.open(case["output"], os.O_WRONLY), 1)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            sys.stderr = os.fdopen(2, "w", closefd=False, errors="backslashreplace")
            limit(case)
            status = typed(lines)
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(spoken)
    with open(heard, errors="backslashreplace") as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def limit(case: dict) -> None:
    """Let this process end when it takes long or much, and have what the case says: a full disk, another user."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, used + CPU_SECONDS))
    if "disk" in case:
        resource.setrlimit(resource.RLIMIT_FSIZE, (case["disk"], case["disk"]))
    if case.get("as") == "nobody":
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    if function := case.get("interrupt"):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.setprofile(lambda frame, event, _: press_at(function, frame) if event == "call" else None)


def press_at(function: str, frame: FrameType) -> None:
    """Ctrl-C as the first function of this name begins: a moment that no clock gives on every machine."""
    if frame.f_code.co_name == function:
        sys.setprofile(None)
        os.kill(os.getpid(), signal.SIGINT)


def closed_pipe() -> int:
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


@pytest.mark.parametrize("case", CASES)
def test_it_holds(case, origin, tmp_path):
    tmp_path.chmod(0o755)
    if case.get("as"):
        if os.geteuid():
            pytest.skip("another user is played by root alone")
        for parent in tmp_path.parents[:-2]:
            parent.chmod(parent.stat().st_mode | 0o055)
    folder = tmp_path / "project"
    shutil.copytree(origin, folder, symlinks=True)
    (tmp_path / "outside").write_text("a secret")
    (tmp_path / "elsewhere").mkdir()
    before = listing_beside(tmp_path)
    status, said = run(folder, case)
    if "outside" not in case:
        assert listing_beside(tmp_path) == before
    assert not Path("/tmp/evil-of-t3d.py").exists()
    message = "\n".join(line for line in said.splitlines() if "it/s]" not in line and "/s, " not in line)
    assert status >= 0, f"killed by {signal.Signals(-status).name}: {message[-2000:]}"
    assert status not in (70, 71), message[-4000:]
    assert "Traceback" not in message, message[-4000:]
    assert len(message) <= 4000, message[:500]
    if case.get("fine") and status == 0:
        return
    assert status == case.get("rc", status), message
    assert status in (1, 2, 130) or "rc" in case, f"rc {status}: {message}"
    assert re.search(case.get("says", ""), message), message
    assert not list(folder.glob("data/**/*.partial")), "something unfinished stays"


def listing_beside(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for top in folder.iterdir()
        if top.name != "project"
        for path in (top, *(top.rglob("*") if top.is_dir() else ()))
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_each_line_does_well_in_the_project_as_it_is(name, origin, tmp_path):
    shutil.copytree(origin, tmp_path / "project", symlinks=True)
    status, said = run(tmp_path / "project", {"t3d": name})
    assert status == 0, said
