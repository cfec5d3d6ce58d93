"""Runs generated programs where they can do no harm, and decides what they are worth where they cannot reach.

A program runs in bubblewrap: no network, a read-only system, a private /tmp, no new processes, and limits on time,
memory, disk and output. It is only ever asked for values: the tests and the verdict stay on this side, so that a
program which prints a pass, exits early or rewrites its interpreter gains nothing. Programs follow each other in one
sandbox, each in a process of its own, and none sees or changes anything of another (`zygote.py`). `sandboxed.py` is
the other side.
"""

import json
import math
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from t3d.errors import MissingInputError
from t3d.evaluation import sandboxed
from t3d.evaluation.zygote import DISK_MB, Zygote


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    """Wall-clock time over all its calls."""
    memory_mb: int = 512
    """Address space."""
    output_kb: int = 256
    """One returned value, encoded."""

    @property
    def resources(self) -> dict[str, int]:
        """As limits of the program's process."""
        return {
            # Wall-clock time ends a program first; this ends what that cannot reach.
            "RLIMIT_CPU": math.ceil(self.seconds) + 1,
            "RLIMIT_AS": self.memory_mb * 2**20,
            "RLIMIT_FSIZE": DISK_MB * 2**20,
            "RLIMIT_CORE": 0,
            "RLIMIT_NPROC": 0,
        }


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and in a few words why not."""

    passed: bool
    reason: str


class ProgramFailed(Exception):
    """The program raised, ended, took too long or returned what is no plain data."""


class Program:
    """A program in a sandbox; calling it calls its function. `Sandbox.program` makes it.

    Args:
        channel: connection to its process.
        source: Python source that defines the function.
        function: its name.
        limits: what it may use.

    Raises:
        ProgramFailed: the source cannot be executed.
    """

    def __init__(self, channel: socket.socket, source: str, function: str, limits: Limits) -> None:
        self.function, self.limits = function, limits
        self._channel, self._received = channel, b""
        self._deadline = time.monotonic() + limits.seconds
        self._ask({"program": source})

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

    def _ask(self, message: dict[str, Any]) -> Any:
        try:
            self._allow_what_is_left()
            self._channel.sendall(json.dumps(message).encode() + b"\n")
            return self._next_reply()
        except TimeoutError as error:
            raise ProgramFailed(f"it took more than {self.limits.seconds:g} s") from error
        except ConnectionError as error:
            raise ProgramFailed("it ended") from error

    def _next_reply(self) -> Any:
        while b"\n" not in self._received:
            self._allow_what_is_left()
            chunk = self._channel.recv(65536)
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

    def _allow_what_is_left(self) -> None:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._channel.settimeout(seconds)


class Sandbox:
    """Judges programs in any number of threads, one program at a time in each. Use it in a `with` statement.

    A thread takes a sandbox that is idle, or starts one.

    Args:
        kind: `bubblewrap`; or `process`, which has the limits but no file system of its own and must only be used on a
            machine that can be thrown away.
    """

    def __init__(self, kind: str = "bubblewrap") -> None:
        self.kind = kind
        self._idle: list[Zygote] = []
        # Sandboxes end with the thread that started them: this one, which waits for `close`, starts all.
        self._starter = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all sandboxes; no program may be running in them."""
        while self._idle:
            self._idle.pop().close()
        self._starter.shutdown()

    def judge(
        self, source: str, function: str, check: Callable[[Program], None], limits: Limits | None = None
    ) -> Verdict:
        """Run a program against tests.

        Args:
            source: the program.
            function: name of the function it should define.
            check: calls the program it is given and raises `AssertionError` where a value is wrong. It runs on this
                side.
            limits: what the program may use.

        Raises:
            MissingInputError: there is no sandbox; nothing was run.
        """
        try:
            with self.program(source, function, limits) as program:
                check(program)
        except ProgramFailed as error:
            return Verdict(False, str(error))
        except AssertionError as error:
            return Verdict(False, f"wrong: {error}"[:200])
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            # The test stumbled over a value of the wrong kind.
            return Verdict(False, f"wrong kind of value ({type(error).__name__}: {error})"[:200])
        return Verdict(True, "passed")

    @contextmanager
    def program(self, source: str, function: str, limits: Limits | None = None) -> Iterator[Program]:
        """A program to call, which ends with the `with` statement.

        Raises:
            MissingInputError: bubblewrap is not there or does not work here.
            ProgramFailed: the source cannot be executed.
        """
        limits = limits or Limits()
        zygote, channel = self._fork(limits)
        try:
            yield Program(channel, source, function, limits)
        finally:
            with channel:
                is_reusable = zygote.end()
            if is_reusable:
                self._idle.append(zygote)
            else:
                zygote.close()

    def _fork(self, limits: Limits) -> tuple[Zygote, socket.socket]:
        while True:
            try:
                zygote, is_new = self._idle.pop(), False
            except IndexError:
                zygote, is_new = self._starter.submit(Zygote, self.kind).result(), True
            channel = zygote.fork(limits.resources)
            if channel is not None:
                return zygote, channel
            said = zygote.close()
            if is_new:
                raise MissingInputError(f"the {self.kind} sandbox does not start on this machine: {said or 'it ended'}")


def check_cases(cases: list[tuple[Any, Any]]) -> Callable[[Callable[..., Any]], None]:
    """A test of (argument, result) pairs, equal in value and type: True is not 1."""

    def check(function: Callable[..., Any]) -> None:
        for argument, expected in cases:
            found = function(argument)
            if type(found) is not type(expected) or found != expected:
                raise AssertionError(f"f({argument!r}) is {found!r}, not {expected!r}")

    return check
