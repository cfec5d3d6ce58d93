"""What a child that `parent.py` forked does: it becomes the process of a job, does the job, and may stay for others."""

import atexit
import ctypes
import gc
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from t3d.terminal.client import PASSED_ON, received

STAYS = {"generate-answers": "--model"}
"""Verb after which a child stays -> the option that names its model."""
WAITS = b"w"
"""What a child says that waits for its next job."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_SYSTEM = ctypes.CDLL(None, use_errno=True)


def model_of(argv: list[str]) -> str | None:
    """The model with which a child stays that has done this command line; None if it ends with its job."""
    option = STAYS.get(argv[1])
    return argv[argv.index(option) + 1] if option in argv[2:-1] else None


def leave() -> None:
    """In a child: be a process of its own, that ends with its parent."""
    os.setsid()
    _SYSTEM.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _SYSTEM.prctl(_PR_SET_NAME, b"t3d", 0, 0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def become(request: dict[str, Any], files: list[int]) -> None:
    """In a child: be what the client would have been after its imports."""
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


def job(parent: socket.socket) -> None:
    """In a child: run the command line, and those of the jobs that follow; then end as the interpreter would.

    It would also take apart what was loaded, and so copy it: half a second.
    """
    main = import_module("t3d.cli").main
    status = status_of(main)
    while status == 0 and _begins_again(parent):
        status = status_of(main)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _flush()
    os._exit(status & 0xFF)


def _begins_again(parent: socket.socket) -> bool:
    """In a child: wait for the next job after one that ended well; False if it does one alone or if none comes."""
    if model_of(sys.argv) is None:
        return False
    if compiler := sys.modules.get("torch._inductor.async_compile"):
        compiler.shutdown_compile_workers()
    # What it has started may hold the job's output open, and who reads that would wait for its end.
    if _has_children():
        return False
    _flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for target in range(3):
        os.dup2(nothing, target)
    os.close(nothing)
    parent.sendall(WAITS)
    # While it waits it holds the model alone.
    gc.collect()
    _SYSTEM.malloc_trim(0)
    if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    request, files = received(parent, None)
    if not request:
        return False
    become(request, files)
    import_module("t3d.provenance.environment").start_again()
    return True


def _has_children() -> bool:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
