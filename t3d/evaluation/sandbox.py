"""Runs generated programs where they can do no harm, and decides what they are worth where they cannot reach.

A program runs in bubblewrap: no network, a read-only system, a private /tmp, no new processes, and limits on time,
memory, disk and output. It is only ever asked for values: the tests and the verdict stay on this side, so that a
program which prints a pass, exits early or rewrites its interpreter gains nothing. `sandboxed.py` is the other side.
"""

import json
import math
import os
import platform
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from t3d.errors import MissingInputError, ParameterError
from t3d.evaluation import sandboxed

_START_SECONDS = 30.0
_NOBODY = "65534"
# System calls that make processes, threads and namespaces, or evade this filter, by machine.
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FORBIDDEN = {
    "x86_64": {
        "clone": 56,
        "fork": 57,
        "vfork": 58,
        "unshare": 272,
        "setns": 308,
        "io_uring_setup": 425,
        "clone3": 435,
    },
    "aarch64": {"clone": 220, "unshare": 97, "setns": 268, "io_uring_setup": 425, "clone3": 435},
}


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    """Wall-clock time over all its calls."""
    memory_mb: int = 512
    """Address space."""
    disk_mb: int = 16
    """Its private /tmp."""
    output_kb: int = 256
    """One returned value, encoded."""


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and in a few words why not."""

    passed: bool
    reason: str


class ProgramFailed(Exception):
    """The program raised, ended, took too long or returned what is no plain data."""


class Program:
    """A program in its sandbox; calling it calls its function. Use it in a `with` statement.

    Args:
        source: Python source that defines the function.
        function: its name.
        limits: what it may use.
        kind: `bubblewrap`; or `process`, which has the limits but neither a file system nor a network of its own and
            must only be used on a machine that can be thrown away.

    Raises:
        MissingInputError: bubblewrap is not there or does not work here.
        ProgramFailed: the source cannot be executed.
    """

    def __init__(self, source: str, function: str, limits: Limits | None = None, kind: str = "bubblewrap") -> None:
        self.function, self.limits = function, limits or Limits()
        self._received = b""
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as system_calls:
            command = _command(self.limits, kind, system_calls)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={},
                cwd="/",
                start_new_session=True,
                pass_fds=[system_calls.fileno()] if kind == "bubblewrap" else [],
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
            os.set_blocking(self._input, False)
            try:
                self._deadline = time.monotonic() + _START_SECONDS
                self._next_reply()
            except ProgramFailed as error:
                self.close()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise MissingInputError(
                    f"the {kind} sandbox does not start on this machine: {said or error}"
                ) from error
        self._deadline = time.monotonic() + self.limits.seconds
        try:
            self._ask({"program": source})
        except ProgramFailed:
            self.close()
            raise

    def __call__(self, *arguments: Any) -> Any:
        """The value the program's function returns for `arguments`.

        Raises:
            ProgramFailed: it returned none.
        """
        return self._ask({"function": self.function, "arguments": sandboxed.encode(arguments)})

    def evaluate(self, expression: str) -> Any:
        """The value of a Python expression where the program's names are known, for arguments that are no plain data.

        Raises:
            ProgramFailed: it has none.
        """
        return self._ask({"expression": expression})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the program and everything it started."""
        # bubblewrap dies with this group and takes its process namespace along.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _ask(self, message: dict[str, Any]) -> Any:
        pending = json.dumps(message).encode() + b"\n"
        while pending:
            self._wait_for(self._input, selectors.EVENT_WRITE)
            try:
                pending = pending[os.write(self._input, pending) :]
            except BrokenPipeError as error:
                raise ProgramFailed("it ended") from error
        return self._next_reply()

    def _next_reply(self) -> Any:
        while b"\n" not in self._received:
            self._wait_for(self._output, selectors.EVENT_READ)
            chunk = os.read(self._output, 65536)
            if not chunk:
                raise ProgramFailed("it ended")
            self._received += chunk
            if len(self._received) > self.limits.output_kb * 1024:
                raise ProgramFailed(f"it returned more than {self.limits.output_kb} kB")
        line, _, self._received = self._received.partition(b"\n")
        try:
            reply = json.loads(line)
            if "error" in reply:
                raise ProgramFailed(str(reply["error"])[:200])
            return sandboxed.decode(reply["value"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProgramFailed("it returned what is no plain data") from error

    def _wait_for(self, file: int, event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(file, event)
            if not selector.select(max(0.0, self._deadline - time.monotonic())):
                raise ProgramFailed(f"it took more than {self.limits.seconds:g} s")


def judge(
    source: str,
    function: str,
    check: Callable[[Program], None],
    limits: Limits | None = None,
    kind: str = "bubblewrap",
) -> Verdict:
    """Run a program against tests.

    Args:
        source: the program.
        function: name of the function it should define.
        check: calls the program it is given and raises `AssertionError` where a value is wrong. It runs on this side.
        limits: what the program may use.
        kind: see `Program`.

    Raises:
        MissingInputError: there is no sandbox; nothing was run.
    """
    try:
        with Program(source, function, limits, kind) as program:
            check(program)
    except ProgramFailed as error:
        return Verdict(False, str(error))
    except AssertionError as error:
        return Verdict(False, f"wrong: {error}"[:200])
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        # The test stumbled over a value of the wrong kind.
        return Verdict(False, f"wrong kind of value ({type(error).__name__}: {error})"[:200])
    return Verdict(True, "passed")


def check_cases(cases: list[tuple[Any, Any]]) -> Callable[[Callable[..., Any]], None]:
    """A test of (argument, result) pairs, equal in value and type: True is not 1."""

    def check(function: Callable[..., Any]) -> None:
        for argument, expected in cases:
            found = function(argument)
            if type(found) is not type(expected) or found != expected:
                raise AssertionError(f"f({argument!r}) is {found!r}, not {expected!r}")

    return check


def _command(limits: Limits, kind: str, system_calls: Any) -> list[str]:
    resources = {
        # Wall-clock time ends a program first; this ends what that cannot reach.
        "RLIMIT_CPU": math.ceil(limits.seconds) + 1,
        "RLIMIT_AS": limits.memory_mb * 2**20,
        "RLIMIT_FSIZE": limits.disk_mb * 2**20,
        "RLIMIT_CORE": 0,
    }
    # The interpreter of a virtual environment, without the environment: programs get the standard library.
    python = os.path.realpath(sys.executable)
    if kind == "process":
        resources["RLIMIT_NPROC"] = 0
        return [python, "-ISB", sandboxed.__file__, json.dumps(resources)]
    if kind != "bubblewrap":
        raise ParameterError(f"sandbox is bubblewrap or process, not {kind!r}.")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise MissingInputError(
            "generated programs run in bubblewrap, and there is no `bwrap` on this machine. Install it (apt-get "
            "install bubblewrap, dnf install bubblewrap), or ask for the weaker `sandbox: process` on a machine that "
            "can be thrown away."
        )
    machine = platform.machine()
    if machine not in _FORBIDDEN:
        raise MissingInputError(f"the sandbox knows no system calls of {machine}, only of {', '.join(_FORBIDDEN)}.")
    system_calls.write(_filter(machine))
    system_calls.seek(0)
    folders: list[str] = []
    for folder in ("/usr", "/bin", "/lib", "/lib64"):
        if os.path.islink(folder):
            folders += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            folders += ["--ro-bind", folder, folder]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        folders += ["--ro-bind", sys.base_prefix, sys.base_prefix]
    return [
        *(bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"),
        *folders,
        *("--ro-bind", sandboxed.__file__, "/sandboxed.py"),
        *("--dev", "/dev", "--size", str(limits.disk_mb * 2**20), "--tmpfs", "/tmp"),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(system_calls.fileno())),
        *(python, "-ISB", "/sandboxed.py", json.dumps(resources)),
    ]


def _filter(machine: str) -> bytes:
    """A BPF program for seccomp: the forbidden system calls fail with EPERM, another architecture's kill."""
    load, equal, at_least, ret = 0x20, 0x15, 0x35, 0x06
    forbidden = sorted(_FORBIDDEN[machine].values())
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    program = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCH[machine]), (ret, 0, 0, kill), (load, 0, 0, 0)]
    # Calls of x86-64's 32-bit pointer interface have other numbers, all of them above this one.
    program.append((at_least, len(forbidden) + 1, 0, 0x40000000))
    program += [(equal, len(forbidden) - i, 0, number) for i, number in enumerate(forbidden)]
    program += [(ret, 0, 0, allow), (ret, 0, 0, refuse)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
