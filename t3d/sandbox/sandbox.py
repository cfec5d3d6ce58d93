"""Runs generated programs where they can do no harm, and decides what they are worth where they cannot reach.

A program runs in bubblewrap: no network, the standard library and no other file, a private /tmp, no new processes, and
limits on time, memory, disk and output. It is only ever asked for values: the tests and the verdict stay on this side,
so that a program which prints a pass, exits early or rewrites its interpreter gains nothing. Programs follow each other
in one sandbox, each in a process of its own, and none sees or changes anything of another (`zygote.py`). `worker.py` is
the other side, `seccomp.py` what the kernel refuses, `visible.py` which files are shown.
"""

import json
import math
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from t3d.errors import MissingInputError
from t3d.sandbox import worker
from t3d.sandbox.zygote import DISK_MB, Zygote


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0
    """CPU time over all its calls."""
    memory_mb: int = 512
    """Address space. A hostile program has at most 0.5 GB beside it: page tables of 65 530 scattered pages."""
    output_kb: int = 1024
    """One returned value, encoded: a list of 100 000 numbers has 700 kB."""

    @property
    def wall_seconds(self) -> float:
        """Wall-clock time over all its calls, for a program that sleeps; a computing one has a core a quarter of it."""
        return 4 * self.seconds

    @property
    def resources(self) -> dict[str, int]:
        """As limits of the program's process."""
        return {
            # The process that forked it ends a program sooner; this ends what that cannot reach.
            "RLIMIT_CPU": math.ceil(self.seconds) + 1,
            "RLIMIT_AS": self.memory_mb * 2**20,
            "RLIMIT_FSIZE": DISK_MB * 2**20,
            # With 0 a crash would still be told to a program of the machine that collects images of memory.
            "RLIMIT_CORE": 1,
            "RLIMIT_NPROC": 0,
            # Buffers of pipes and sockets are memory that no limit counts: 0.2 MB each.
            "RLIMIT_NOFILE": 64,
        }


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and in a few words why not."""

    passed: bool
    reason: str


class ProgramFailed(Exception):
    """The program raised, ended, took too long or returned a value that is not plain data."""


class ProgramEnded(ProgramFailed):
    """The program's process closed its connection."""


class Program:
    """A program in a sandbox; calling it calls its function. `Sandbox.program` makes it.

    Args:
        channel: connection to its process.
        sources: Python sources, executed one after the other in one module, which then has the function.
        function: its name.
        limits: what it may use.

    Raises:
        ProgramFailed: a source cannot be executed.
    """

    def __init__(self, channel: socket.socket, sources: Sequence[str], function: str, limits: Limits) -> None:
        self.function, self.limits = function, limits
        self._channel, self._received = channel, b""
        self._deadline = time.monotonic() + limits.wall_seconds
        for source in sources:
            self._ask({"program": source})

    def __call__(self, *arguments: Any) -> Any:
        """The value that the program's function returns for `arguments`.

        Raises:
            ProgramFailed: it returned no value, or one that is not plain data.
        """
        return self.call_within((), *arguments)

    def call_within(self, wrappers: Sequence[str], *arguments: Any) -> Any:
        """The value of `wrapper(function(..))`, of which only the result has to be plain data.

        Args:
            wrappers: names of `worker.WRAPPERS`, the innermost first.
            arguments: of the program's function.

        Raises:
            ProgramFailed: as above.
        """
        call = {"function": self.function, "arguments": worker.encode(arguments)}
        return self._ask({**call, "wrappers": wrappers})

    def evaluate(self, expression: str, wrappers: Sequence[str] = ()) -> Any:
        """The value of a Python expression where the program's names are known, for arguments that are not plain data.

        Args:
            expression: Python source.
            wrappers: as above.

        Raises:
            ProgramFailed: as above.
        """
        return self._ask({"expression": expression, "wrappers": wrappers})

    def _ask(self, message: dict[str, Any]) -> Any:
        try:
            self._allow_what_is_left()
            self._channel.sendall(json.dumps(message).encode() + b"\n")
            return self._next_reply()
        except TimeoutError as error:
            raise ProgramFailed(f"it took more than {self.limits.wall_seconds:g} s of wall-clock time") from error
        except ConnectionError as error:
            raise ProgramEnded("it ended") from error

    def _next_reply(self) -> Any:
        while b"\n" not in self._received:
            self._allow_what_is_left()
            chunk = self._channel.recv(65536)
            if not chunk:
                raise ProgramEnded("it ended")
            self._received += chunk
            if len(self._received) > self.limits.output_kb * 1024:
                raise ProgramFailed(f"it returned more than {self.limits.output_kb} kB")
        line, _, self._received = self._received.partition(b"\n")
        try:
            reply = json.loads(line)
            if "error" in reply:
                raise ProgramFailed(str(reply["error"])[:200])
            return worker.decode(reply["value"])
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ProgramFailed("it returned a value that is not plain data") from error

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
        self,
        source: str | Sequence[str],
        function: str,
        check: Callable[[Program], None],
        limits: Limits | None = None,
    ) -> Verdict:
        """Run a program against tests.

        Args:
            source: the program; or several sources, executed one after the other in one module.
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
            return _failed(str(error))
        except AssertionError as error:
            return _failed(f"wrong: {error}")
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            # The test stumbled over a value of the wrong kind.
            return _failed(f"wrong kind of value ({type(error).__name__}: {error})")
        return Verdict(True, "passed")

    @contextmanager
    def program(self, source: str | Sequence[str], function: str, limits: Limits | None = None) -> Iterator[Program]:
        """A program to call, which ends with the `with` statement.

        Raises:
            MissingInputError: bubblewrap is not there or does not work here.
            ProgramFailed: the source cannot be executed; or, from the `with` statement, a call failed.
        """
        limits = limits or Limits()
        zygote, channel = self._fork(limits)
        ended: ProgramEnded | None = None
        try:
            yield Program(channel, [source] if isinstance(source, str) else source, function, limits)
        except ProgramEnded as error:
            ended = error
        finally:
            with channel:
                is_reusable, cpu_seconds = zygote.end()
            if is_reusable:
                self._idle.append(zygote)
            else:
                zygote.close()
        if ended is not None:
            # The two clocks differ by microseconds.
            if cpu_seconds > limits.seconds - 0.01:
                raise ProgramFailed(f"it took more than {limits.seconds:g} s of CPU time") from ended
            raise ended

    def _fork(self, limits: Limits) -> tuple[Zygote, socket.socket]:
        while True:
            try:
                zygote, is_new = self._idle.pop(), False
            except IndexError:
                zygote, is_new = self._starter.submit(Zygote, self.kind).result(), True
            channel = zygote.fork(limits.seconds, limits.resources)
            if channel is not None:
                return zygote, channel
            said = zygote.close()
            if is_new:
                raise MissingInputError(f"the {self.kind} sandbox does not start on this machine: {said or 'it ended'}")


def _failed(reason: str) -> Verdict:
    # Half a surrogate pair, which a program may write, has no place in a file.
    return Verdict(False, reason[:200].encode("utf-8", "backslashreplace").decode())


def shown(value: Any) -> str:
    """A value as messages write it."""
    try:
        return repr(value)
    except ValueError:
        return f"a value with a number of more than {sys.get_int_max_str_digits()} digits"


def check_cases(cases: list[tuple[Any, Any]]) -> Callable[[Callable[..., Any]], None]:
    """A test of (argument, result) pairs, equal in value and type at every depth: True is not 1, and 1 is not 1.0."""

    def check(function: Callable[..., Any]) -> None:
        for argument, expected in cases:
            found = function(argument)
            if not _is_same(found, expected):
                raise AssertionError(f"f({argument!r}) is {shown(found)}, not {expected!r}")

    return check


def _is_same(value: Any, other: Any) -> bool:
    if type(value) is not type(other) or value != other:
        return False
    if isinstance(value, list | tuple):
        return all(map(_is_same, value, other))
    if isinstance(value, dict):
        return _is_same(set(value), set(other)) and all(_is_same(item, other[key]) for key, item in value.items())
    if isinstance(value, set | frozenset):
        others = {item: item for item in other}
        return all(_is_same(item, others[item]) for item in value)
    return True
