"""A process that has loaded what jobs need, and forks a child for each: a job of a second pays no imports of five.

It belongs to one run of Snakemake, on the machine where that runs, so also to a job of Slurm in which several jobs of
this project follow each other. It starts when the first job asks (`client.py`), loads what the verbs need that are
asked for, and computes nothing: a child begins where a process of its own would be after its imports, with the job's
arguments, folder, environment, files and number of threads. It says no, and the job is done elsewhere, where a child
would differ from such a process: another environment or interpreter, code that was changed since it was loaded.

A child is in a session of its own and has the signals of its client passed on. It is killed when its client is gone and
when this process is gone; this process ends when Snakemake is gone and the last child has ended.

A child that has answered a benchmark stays, with its model, for the next budgets that are asked of this model: a
process that has opened a GPU cannot be forked, but it can go on. What it made is on disk before it waits, so nothing is
lost when it is killed.
"""

import atexit
import gc
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from t3d.terminal import child as child_side
from t3d.terminal.client import ADDRESS, PASSED_ON, received, send

_TOKENIZERS = ("transformers.models.auto.tokenization_auto", "transformers.models.qwen2.tokenization_qwen2")
_MODELS = ("t3d.models.sdar", *_TOKENIZERS)
_LM_EVAL = ("t3d.evaluation.harness", "lm_eval.evaluator")
LOADED = {
    # Of a teacher that is trained they are a small part.
    "teacher": ("t3d.teachers.teacher",),
    "prompts": ("t3d.prompts.sets", "t3d.models.folder", *_TOKENIZERS),
    "rollout": (*_MODELS, "pandas", "t3d.trajectories.rollout"),
    "generate": (*_MODELS, "t3d.trajectories.generations"),
    "judge": (*_LM_EVAL, *_TOKENIZERS, "t3d.evaluation.verdicts"),
    "distill": (*_MODELS, "t3d.distillation.trainer", "t3d.distillation.objectives"),
    "generate-answers": (*_MODELS, "t3d.evaluation.answers", "t3d.decoding.decoder"),
    "score": (*_LM_EVAL, "t3d.evaluation.scores"),
    "factorisation": (*_MODELS, "t3d.evaluation.factorisation"),
    "table": ("t3d.reporting.tables",),
    "figure": ("t3d.reporting.figures", "matplotlib.backends.backend_pdf"),
    "report": ("t3d.reporting.page",),
}
"""Verb -> modules that its jobs import; what a job imports besides, it imports itself."""
PROGRAM = "from t3d.terminal import child, parent; child.job(parent.serve())"
_AHEAD = {"teacher": "prompts", "prompts": "rollout", "rollout": "generate-answers", "distill": "figure"}
"""Verb -> the one whose modules are loaded while its jobs run, since it follows."""
_BESIDE = {"prompts", "judge", "score", "table", "figure", "report"}
"""Verbs that load no model: children that wait with one may stay beside them."""
_MOST_WAITING = 4
"""Children that wait with a model on a CPU once another model is loaded; none on a GPU, whose memory it may need."""
_THREADS = [
    *(f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")),
    "VECLIB_MAXIMUM_THREADS",
]
"""Set by Snakemake for each job. The parent has one thread; a child sets its own number."""
_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Set for the parent: GPUs are then counted without CUDA, which must not be used before a fork."""
_MALLOC = "GLIBC_TUNABLES"
"""Set for the parent, since it is read when a process starts: memory that was freed is used again, not given back."""
_REUSED = "glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=67108864:glibc.malloc.mmap_threshold=33554432"
_OF_JOBS = {*_THREADS, _NVML, _MALLOC, "TMPDIR", "TMP", "TEMP", "TEMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
"""Environment variables in which a job may differ from the parent."""
_SECONDS = 10.0


@cache
def offer() -> None:
    """In Snakemake: let its jobs ask for children; the parent starts when the first one does."""
    name = f"t3d-{os.getpid()}-{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + name)
    listener.listen(128)
    os.environ[ADDRESS] = name
    threading.Thread(target=_start, args=(listener,), daemon=True).start()


def _start(listener: socket.socket) -> None:
    select.select([listener], [], [])
    environment = {_MALLOC: _REUSED} | os.environ | dict.fromkeys([*_THREADS, _NVML], "1")
    # -P: its modules are those of the command `t3d`, not those of the working directory.
    command = [sys.executable, "-P", "-c", PROGRAM, str(listener.fileno())]
    nowhere = subprocess.DEVNULL
    # Its standard input ends with this process, however that ends.
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": nowhere, "stderr": nowhere}
    with listener, suppress(OSError):
        started = subprocess.Popen(
            command, env=environment, pass_fds=[listener.fileno()], start_new_session=True, **streams
        )
        atexit.register(_end, started)


def _end(started: subprocess.Popen) -> None:
    """Wait for it, so that its CPU time is counted with this process; after Ctrl-C its last child may take longer."""
    with suppress(subprocess.TimeoutExpired):
        started.communicate(timeout=_SECONDS)


@dataclass(frozen=True)
class _Child:
    """A child, what it has in common with the jobs that it may do after its own, and the channel to it."""

    number: int
    common: Any
    channel: socket.socket

    def waits(self) -> bool:
        """Whether it has said that its job ended well and that it waits for another."""
        with suppress(OSError):
            return self.channel.recv(1, socket.MSG_DONTWAIT) == child_side.WAITS
        return False

    def end(self) -> None:
        """End it while it waits; its memory is free afterwards."""
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self.number, signal.SIGKILL)
            os.waitpid(self.number, 0)


def serve() -> socket.socket:
    """Fork children until Snakemake is gone. In each of them it returns the channel to this process."""
    listener, snakemake = socket.socket(fileno=int(sys.argv[1])), os.dup(0)
    # A scheduler that ends a job tells every process of it; this one ends after its children.
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN)
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    own, children, waiting = _Own(), dict[socket.socket, _Child](), list[_Child]()
    waited: list[Any] = [listener, snakemake, woken]
    while children or listener in waited:
        clients = {child.channel: asked for asked, child in children.items()}
        ready = select.select([*waited, *children, *clients], [], [], 0 if own.ahead else None)[0]
        if not ready:
            own.load_ahead()
        for found in ready:
            if found is woken:
                woken.recv(4096)
                _reap(children, waiting)
            elif found is snakemake:
                # Whoever asks now is refused.
                listener.close()
                waited = [woken]
                break
            elif found is listener:
                connection, _ = listener.accept()
                request, files = received(connection, _SECONDS)
                if not own.can_do(request):
                    _say(connection, b"no")
                elif again := _asked_again(waiting, request, files):
                    children[connection] = again
                else:
                    ours, theirs = socket.socketpair()
                    if forked := os.fork():
                        theirs.close()
                        children[connection] = _Child(forked, _common(request), ours)
                    else:
                        others = [child.channel for child in [*children.values(), *waiting]]
                        for end in (listener, woken, waker, connection, ours, *children, *others):
                            end.close()
                        os.close(snakemake)
                        child_side.leave()
                        child_side.become(request, files)
                        return theirs
                for file in files:
                    os.close(file)
            elif found in children:
                _pass_on(found, children[found].number)
            elif (connection := clients.get(found)) in children and children[connection].waits():
                waiting.append(children.pop(connection))
                _say(connection, b"0")
    # Waited for, so that their CPU time is counted with this process.
    for child in waiting:
        child.end()
    sys.exit()


def _common(request: dict[str, Any]) -> Any:
    """What the jobs have in common that one child does; None if it does one alone."""
    model = child_side.model_of(request["argv"])
    return None if model is None else (model, request["cwd"], request["environment"], request["ignored"])


def _asked_again(waiting: list[_Child], request: dict[str, Any], files: Sequence[int]) -> _Child | None:
    """The child that waits with the model of a request and has been given it; without one, others make room."""
    common = _common(request)
    for child in [child for child in waiting if common is not None and child.common == common]:
        waiting.remove(child)
        with suppress(OSError):
            send(child.channel, request, files)
            return child
    if request["argv"][1] not in _BESIDE:
        for child in [child for child in waiting if _uses_gpu(child.number)] + waiting[:-_MOST_WAITING]:
            if child in waiting:
                waiting.remove(child)
                child.end()
    return None


class _Own:
    """What this process is, and with it every child."""

    def __init__(self) -> None:
        self.environment, self.code = _compared(os.environ), _code()
        self.verbs: set[str] = set()
        self.ahead: list[str] = []

    def can_do(self, request: dict[str, Any]) -> bool:
        """Whether a child would do what a process of its own does; then what it needs is loaded."""
        if not request or request["prefix"] != sys.prefix or _compared(request["environment"]) != self.environment:
            return False
        verb = (*request["argv"][1:], "")[0]
        if verb not in LOADED or _code() != self.code:
            return False
        if verb not in self.verbs:
            self.ahead = ["t3d.cli", *LOADED[verb]]
            while self.ahead:
                self.load_ahead()
            self.verbs.add(verb)
            self.ahead = [*LOADED[_AHEAD[verb]]] if verb in _AHEAD else []
            gc.collect()
            # A child that need not look at them need not copy them.
            gc.freeze()
        return not _uses_gpu("self")

    def load_ahead(self) -> None:
        """Load the next module that will be needed."""
        # The job itself says what is wrong.
        with suppress(Exception):
            import_module(self.ahead.pop(0))


def _compared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _OF_JOBS}


def _code() -> list[tuple[str, int]]:
    """The files of this package, and when they were changed."""
    return [(str(path), path.stat().st_mtime_ns) for path in Path(__file__).parents[1].rglob("*.py")]


def _uses_gpu(process: int | str) -> bool:
    """Whether a process has opened a GPU: CUDA does not survive a fork."""
    with suppress(OSError):
        return any(map(_is_gpu, Path(f"/proc/{process}/fd").iterdir()))
    return False


def _is_gpu(file: Path) -> bool:
    # It may be closed by now, as the one is that a process lists its own files with.
    with suppress(OSError):
        return os.readlink(file).startswith("/dev/nvidia")
    return False


def _reap(children: dict[socket.socket, _Child], waiting: list[_Child]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            waiting[:] = [child for child in waiting if child.number != ended[0]]
            for client in [client for client, child in children.items() if child.number == ended[0]]:
                # It may have been killed just after its job.
                status = 0 if children.pop(client).waits() else os.waitstatus_to_exitcode(ended[1])
                _say(client, str(status).encode())


def _say(client: socket.socket, word: bytes) -> None:
    with client, suppress(OSError):
        client.sendall(word)


def _pass_on(client: socket.socket, child: int) -> None:
    """Send a child the signals that its client was sent; a client that is gone was killed."""
    try:
        numbers = client.recv(16)
    except OSError:
        numbers = b""
    with suppress(ProcessLookupError):
        for number in numbers:
            os.kill(child, number)
        if not numbers:
            os.killpg(child, signal.SIGKILL)
