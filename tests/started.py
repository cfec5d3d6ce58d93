"""`t3d` as it is typed, in a working directory of its own."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from t3d import cli
from tests.conftest import ROOT


def set_up(folder: Path, name: str, experiment: str) -> Path:
    """Make `folder` a working directory with one experiment, and the teacher that is shipped."""
    (folder / "params").mkdir()
    (folder / "params" / f"{name}.yaml").write_text(experiment)
    (folder / "data").mkdir()
    (folder / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    return folder


def clone(folder: Path) -> Path:
    """Make `folder` a working directory with the project's parameters and the teacher that is shipped."""
    shutil.copytree(ROOT / "params", folder / "params")
    (folder / "data").mkdir()
    (folder / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    return folder


def vllm_environment(folder: Path, python: str) -> Path:
    """What is taken for an environment of vLLM, with this interpreter."""
    (folder / "environment" / "bin").mkdir(parents=True)
    (folder / "environment" / "bin" / "python").symlink_to(python)
    (folder / "environment" / "installed").touch()
    return folder / "environment"


def t3d(project: Path, arguments: list[str], **environment: str) -> subprocess.Popen:
    """Start `t3d <arguments>` in `project`."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    # What a user once told accelerate must not matter.
    home = project / "home" / "accelerate"
    home.mkdir(parents=True, exist_ok=True)
    (home / "default_config.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 7\nmixed_precision: fp16\n")
    environment = outside | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(home.parent)} | environment
    line = [sys.executable, "-m", "t3d.cli", *arguments]
    return subprocess.Popen(line, cwd=project, env=environment, stdout=-1, stderr=-1, text=True)


def forked(project: Path, line: list[str]) -> subprocess.CompletedProcess:
    """`t3d <line>` in `project`, in a fork of this process: nothing that is loaded here is loaded again."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            sys.stdout, sys.stderr, end = out, errors, None
            try:
                end = typed(project, line)
                out.flush()
                errors.flush()
            finally:
                os._exit(0 if end == "SystemExit: 0" else 1 if end == "SystemExit: 1" else 2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, errors):
            file.seek(0)
        return subprocess.CompletedProcess(line, status, out.read(), errors.read())


def finish(process):
    """What it says until it ends, which must be well."""
    said, errors = process.communicate(timeout=90)
    assert process.returncode == 0, said + errors
    return said


def error_of(function, *arguments, **named) -> str | None:
    """What ends a function, `SystemExit: 0` for example."""
    try:
        function(*arguments, **named)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


def typed(project: Path, line: list[str]) -> str | None:
    """`t3d <line>` in `project` and in this process, a forked one, and what ends it."""
    os.chdir(project)
    sys.argv = ["t3d", *line]
    return error_of(cli.main)


def running(project):
    """Processes of the operating system that work in `project`, as other tests' processes do not."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(project):
                found.append(int(entry))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
