"""`t3d`, Snakemake and DVC as they are typed, in a working directory of its own; most in forks of this process."""

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from importlib import import_module
from pathlib import Path

from t3d import cli, params
from t3d.terminal import child, parent
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


def t3d(project: Path, arguments: list[str], start=subprocess.Popen, **environment: str) -> subprocess.Popen:
    """Start `t3d <arguments>` in `project`; `start=Fork`: in a fork of this process, and what it starts in others."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    # What a user once told accelerate must not matter.
    home = project / "home" / "accelerate"
    home.mkdir(parents=True, exist_ok=True)
    (home / "default_config.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 7\nmixed_precision: fp16\n")
    environment = outside | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(home.parent)} | environment
    line = [sys.executable, "-m", "t3d.cli", *arguments]
    return start(line, cwd=project, env=environment, stdout=-1, stderr=-1, text=True)


FORKED = ("t3d", "snakemake", "dvc")
"""Commands that need not be started anew: what they need is loaded here, which costs a process of its own seconds."""
LATE = {
    "snakemake": (
        *("snakemake.report", "snakemake.storage", "smart_open"),
        *("t3d.provenance.unseen", "t3d.terminal.doctor", "t3d.terminal.cost"),
    ),
    "dvc": (
        *("dvc.cli.parser", "dvc.commands.status", "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.index"),
        *("dvc.repo.stage", "dvc.repo.plots", "dvc.repo.experiments.queue.celery", "dvc.render.converter.vega"),
        *("pygit2", "networkx"),
    ),
    "t3d": ("typer._adapters", "t3d.provenance.publish"),
}
"""Command -> modules that it loads when it runs."""
OF_DVC = "snakemake -s workflow/models.smk "
"""How a line of dvc.yaml begins whose process, with all that its jobs need, would take ten seconds to start."""

ELASTIC = "torch.distributed.elastic.multiprocessing"


class Fork(subprocess.Popen):
    """`subprocess.Popen`; `python -m` with T3D, Snakemake or DVC is a fork of this process, and has its code.

    So are those of these commands that it starts itself. Of the lines that DVC gives to a shell only the longest one is
    a fork: Snakemake for what models make. The others are processes as they would be.
    """

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others):
        pipes, start_new_session = others[3:9], others[14]
        if isinstance(args, list) and args[1:4] == ["-P", "-c", parent.PROGRAM]:
            # Jobs of a forked Snakemake are children of a fork, too: a parent of its own would load PyTorch again.
            main, argv = (lambda: child.job(parent.serve())), ["", args[4]]
        elif argv := _forked(args):
            main = main_of(argv[0])
        else:
            return super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *others)
        self.pid = os.fork()
        if not self.pid:
            closed = [pipe for pipe in (pipes[1], pipes[2], pipes[4]) if pipe != -1]
            _become(main, argv, (pipes[0], pipes[3], pipes[5]), closed, cwd, env, start_new_session)
        self._child_created = True
        self._close_pipe_fds(*pipes)


@cache
def main_of(name):
    """The `main` of a command. What each fork would load as it runs is loaded here: most of a short command's time."""
    main = import_module(f"{name}.cli").main
    for module in LATE.get(name, ()):
        import_module(module)
    if name == "snakemake":
        # It looks for its plugins among all modules of the environment.
        import_module("snakemake.cli").get_argument_parser()
    # Pydantic prepares the classes of parameters when it reads the first experiment.
    params.load(ROOT / "params" / "demo.yaml")
    gc.collect()
    gc.freeze()
    return main


def _forked(command):
    """What `python -m` would have in `sys.argv`, if it is one of those commands."""
    if isinstance(command, (str, bytes, os.PathLike)):
        return None
    if command[-1].startswith(OF_DVC):
        return command[-1].split()
    python, *words = [word for word in command if word not in ("-P", "-u")]
    name = words[1].removesuffix(".cli") if len(words) > 1 and words[0] == "-m" else None
    return [name, *words[2:]] if python == sys.executable and name in FORKED else None


def _become(main, argv, files, closed, cwd, env, start_new_session):
    """Be a process that runs `main`, and end as it would."""
    status = 1
    try:
        # Nothing waits for ever for one that hangs.
        signal.alarm(900)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        if start_new_session:
            os.setsid()
        for number, file in enumerate(files):
            if file != -1:
                os.dup2(file, number)
        # Who holds the other end of its own input never sees it end.
        for file in closed:
            os.close(file)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.chdir(cwd or ".")
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        logging.disable(logging.NOTSET)
        subprocess.Popen = Fork
        if launcher := sys.modules.get(
            "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
        ):
            launcher.Popen = Fork
        if argv[0] == "dvc":
            # It logs to what its standard output was when it was loaded.
            for name in ("dvc", "dvc_objects", "dvc_data"):
                logging.getLogger(name).handlers.clear()
            sys.modules["dvc.logger"].setup()
        sys.argv = argv
        status = child.status_of(main)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run(command, **options) -> subprocess.CompletedProcess:
    """`subprocess.run` with output as text, forked if that can be."""
    with Fork(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        said = process.communicate(timeout=900)
    return subprocess.CompletedProcess(command, process.returncode, *said)


def forked(project: Path, line: list[str]) -> subprocess.CompletedProcess:
    """`t3d <line>` in `project`, in a fork of this process."""
    return run([sys.executable, "-m", "t3d.cli", *line], cwd=project)


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
