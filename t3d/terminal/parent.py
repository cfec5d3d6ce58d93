"""A process that has loaded what jobs need, and forks a child for each: a job of a second pays no imports of five.

It belongs to one run of Snakemake, on the machine where that runs, so also to a job of Slurm in which several jobs of
this project follow each other. It starts when the first job asks (`client.py`), loads what the verbs need that are
asked for, and computes nothing: a child begins where a process of its own would be after its imports, with the job's
arguments, folder, environment, files and number of threads. It says no, and the job is done elsewhere, where a child
would differ from such a process: another environment or interpreter, code that was changed since it was loaded.

A child is in a session of its own and has the signals of its client passed on. It is killed when its client is gone and
when this process is gone; this process ends when Snakemake is gone and the last child has ended.
"""

import atexit
import ctypes
import gc
import io
import json
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from t3d.terminal.client import ADDRESS, PASSED_ON, peer

_TOKENIZERS = ("transformers.models.auto.tokenization_auto", "transformers.models.qwen2.tokenization_qwen2")
_MODELS = ("t3d.models.sdar", *_TOKENIZERS)
_LM_EVAL = ("t3d.evaluation.harness", "lm_eval.evaluator")
LOADED = {
    # Of a teacher that is trained they are a small part.
    "teacher": ("t3d.teachers.teacher",),
    "prompts": ("t3d.prompts.sets", "t3d.models.folder", *_TOKENIZERS),
    "rollout": (*_MODELS, "pandas", "t3d.trajectories.rollout"),
    "generate": (*_MODELS, "t3d.trajectories.generations"),
    "distill": (*_MODELS, "t3d.distillation.trainer", "t3d.distillation.objectives"),
    "generate-answers": (*_MODELS, "t3d.evaluation.answers", "t3d.decoding.decoder"),
    "score": (*_LM_EVAL, "t3d.evaluation.scores"),
    "factorisation": (*_MODELS, "t3d.evaluation.factorisation"),
    "table": ("t3d.reporting.tables",),
    "figure": ("t3d.reporting.figures", "matplotlib.backends.backend_pdf"),
    "report": ("t3d.reporting.page",),
}
"""Verb -> modules that its jobs import; what a job imports besides, it imports itself."""
_THREADS = [
    *(f"{name}_NUM_THREADS" for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")),
    "VECLIB_MAXIMUM_THREADS",
]
"""Set by Snakemake for each job. The parent has one thread; a child sets its own number."""
_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Set for the parent: GPUs are then counted without CUDA, which must not be used before a fork."""
_OF_JOBS = {*_THREADS, _NVML, "TMPDIR", "TMP", "TEMP", "TEMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
"""Environment variables in which a job may differ from the parent."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
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
    environment = os.environ | dict.fromkeys([*_THREADS, _NVML], "1")
    # -P: its modules are those of the command `t3d`, not those of the working directory.
    program = "from t3d.terminal import parent; parent.serve(); parent.job()"
    command = [sys.executable, "-P", "-c", program, str(listener.fileno())]
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


def serve() -> None:
    """Fork children until Snakemake is gone. It returns in each child, which then does its job, and at the end."""
    listener, snakemake = socket.socket(fileno=int(sys.argv[1])), os.dup(0)
    # A scheduler that ends a job tells every process of it; this one ends after its children.
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_IGN)
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    own, children = _Own(), dict[socket.socket, int]()
    waited: list[Any] = [listener, snakemake, woken]
    while children or listener in waited:
        for found in select.select([*waited, *children], [], [])[0]:
            if found is woken:
                woken.recv(4096)
                _reap(children)
            elif found is snakemake:
                # Whoever asks now is refused.
                listener.close()
                waited = [woken]
                break
            elif found is listener:
                client, _ = listener.accept()
                request, files = _request(client)
                if not own.can_do(request):
                    _say(client, b"no")
                elif child := os.fork():
                    children[client] = child
                else:
                    for end in (listener, woken, waker, client, *children):
                        end.close()
                    os.close(snakemake)
                    return _become(request, files)
                for file in files:
                    os.close(file)
            elif found in children:
                _pass_on(found, children[found])
    sys.exit()


def _request(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for, and its standard input, output and error; nothing if it is no client."""
    client.settimeout(_SECONDS)
    files: list[int] = []
    try:
        if peer(client) != os.getuid():
            return {}, []
        length, files, _, _ = socket.recv_fds(client, struct.calcsize("I"), 3)
        left, content = struct.unpack("I", length)[0], b""
        while left > len(content):
            content += client.recv(left - len(content)) or b"\0" * left
        return json.loads(content), files
    except (OSError, ValueError, struct.error):
        return {}, files


class _Own:
    """What this process is, and with it every child."""

    def __init__(self) -> None:
        self.environment, self.code = _compared(os.environ), _code()
        self.verbs: set[str] = set()

    def can_do(self, request: dict[str, Any]) -> bool:
        """Whether a child would do what a process of its own does; then what it needs is loaded."""
        if not request or request["prefix"] != sys.prefix or _compared(request["environment"]) != self.environment:
            return False
        verb = (*request["argv"][1:], "")[0]
        if verb not in LOADED or _code() != self.code:
            return False
        if verb not in self.verbs:
            for module in ("t3d.cli", *LOADED[verb]):
                # The job itself says what is wrong.
                with suppress(Exception):
                    import_module(module)
            self.verbs.add(verb)
            gc.collect()
            # A child that need not look at them need not copy them.
            gc.freeze()
        return not _uses_gpu()


def _compared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _OF_JOBS}


def _code() -> list[tuple[str, int]]:
    """The files of this package, and when they were changed."""
    return [(str(path), path.stat().st_mtime_ns) for path in Path(__file__).parents[1].rglob("*.py")]


def _uses_gpu() -> bool:
    """Whether something has opened a GPU: CUDA does not survive a fork."""
    with suppress(OSError):
        return any(os.readlink(file).startswith("/dev/nvidia") for file in Path("/proc/self/fd").iterdir())
    return False


def _reap(children: dict[socket.socket, int]) -> None:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            for client in [client for client, child in children.items() if child == ended[0]]:
                del children[client]
                _say(client, str(os.waitstatus_to_exitcode(ended[1])).encode())


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


def _become(request: dict[str, Any], files: list[int]) -> None:
    """In a child: be what the client would have been after its imports."""
    os.setsid()
    system = ctypes.CDLL(None, use_errno=True)
    system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    system.prctl(_PR_SET_NAME, b"t3d", 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in set(PASSED_ON) - set(request["ignored"]):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if threads != 1:
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)


def status_of(main: Callable[[], Any]) -> int:
    """Exit status that the interpreter would give a program `main`; it says what the interpreter would say."""
    try:
        return main() or 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        # As at the end of a program: whatever it is, also Ctrl-C, the interpreter prints it.
        sys.excepthook(*sys.exc_info())
        return 1


def job() -> None:
    """In a child: run the command line, and end as the interpreter would.

    It would also take apart what was loaded, and so copy it: half a second.
    """
    status = status_of(import_module("t3d.cli").main)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status & 0xFF)
