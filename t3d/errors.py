"""The errors a user can meet. Each message names the file and the field, what was found and what to do.

`reading` is the wall around every parser of a file that somebody else wrote: nothing but a T3DError comes out of it.
"""

import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

_MOST = 20_000
"""Characters of a message: the pin of a repository with many files is one."""
_LONGEST = 300
"""Characters of what a library says, and of a value that is shown."""


class T3DError(Exception):
    """Base class: `t3d` prints the message without a traceback and exits with status 1."""


class ParameterError(T3DError):
    """An experiment file holds something that is not allowed."""


class MissingInputError(T3DError):
    """A file that an earlier stage should have made is not there."""


class CorruptArtefactError(T3DError):
    """A file does not match its manifest, or a record in it does not fit the schema."""


class BusyError(T3DError):
    """Another process writes the same artefact or file."""


class DataError(T3DError):
    """The data do not allow what was asked for (no gold answer, too few problems, a prompt that is too long)."""


class PublishError(T3DError):
    """Artefacts cannot be published or fetched: not up to date, a lock is held, or DVC failed."""


class MemoryTooSmallError(T3DError):
    """A batch does not fit into the GPU's memory."""


class SourceError(T3DError):
    """The hub does not have what is asked for, or cannot be reached."""


class ServingError(T3DError):
    """vLLM did not answer."""


class DecodingError(T3DError):
    """A model computes NaN or infinity while it decodes or scores."""


class TrainingError(T3DError):
    """Training cannot go on: a non-finite loss or gradient, or a state that cannot be restored."""


class ProcessError(T3DError):
    """Processes that work together cannot be started, or one of them was killed."""


AGAIN = "Delete it and run its stage again."
"""What to do about a file that a stage made."""


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """The end of a program: an expected error, or one of the operating system, is one message and exit status 1.

    Ctrl-C is exit status 130, also while modules load and while the command line is still being read.
    """
    if sys.stdout is None:
        # Whoever started the program closed the output (`>&-`).
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    presses: list[int] = []
    try:
        try:
            with _ctrl_c_noted_in(presses):
                yield
        finally:
            # What the last lines say may not fit on the disk.
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        interrupted = presses or isinstance(error, KeyboardInterrupt)
        message = "interrupted." if interrupted else _last_words(error)
        if message is None:
            raise
    else:
        return
    try:
        sys.stdout.flush()
    except OSError:
        # Python would try again at exit, and say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if message:
        print(f"t3d: {message if len(message) < _MOST else message[:_MOST] + ' ...'}", file=sys.stderr)
    sys.exit(128 + signal.SIGINT if interrupted else 1)


def _last_words(error: BaseException) -> str | None:
    """What a program says that an expected error ends; None if the error is not expected."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has gone, as `head` does.
        return ""
    if isinstance(error, T3DError):
        return str(error)
    if isinstance(error, OSError):
        return of_system(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory; ask for smaller batches, or use a larger machine."
    # Libraries in Rust have the system's number in their text.
    if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
        return None
    return of_system(OSError(int(number[1]), str(error)))


@contextmanager
def _ctrl_c_noted_in(presses: list[int]) -> Iterator[None]:
    """Add each Ctrl-C to `presses` and raise KeyboardInterrupt; a program that ignores Ctrl-C still does.

    An extension that loads turns the exception into an ImportError: `presses` tells what it was. Where it would be
    lost it is raised a moment later: pydantic goes on without it or makes a SchemaError of it, and Python drops it in
    `__del__`, with a traceback.
    """
    later: list[threading.Timer] = []

    def press(number: int, frame: FrameType | None) -> None:
        if not _loses_exceptions(frame):
            presses.append(number)
            signal.default_int_handler(number, frame)
        if not later:
            later.append(threading.Timer(0.01, again))
            later[0].start()

    def again() -> None:
        later.clear()
        os.kill(os.getpid(), signal.SIGINT)

    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        if heard:
            for timer in later:
                timer.cancel()
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _loses_exceptions(frame: FrameType | None) -> bool:
    """Whether this runs in pydantic or in `__del__`."""
    while frame:
        if frame.f_code.co_name == "__del__" or frame.f_globals.get("__name__", "").startswith("pydantic"):
            return True
        frame = frame.f_back
    return False


def process_pool(workers: int, start: str | None = None) -> "ProcessPoolExecutor":
    """A pool of processes that end at Ctrl-C without a word. If the program ignores Ctrl-C, so do they.

    Python's own pools print a traceback of each process. If these ignored Ctrl-C, Python 3.11's pool might wait for
    them for ever.

    Args:
        workers: how many.
        start: how they start, `spawn`; Python's choice by default.
    """
    # Most commands need none.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    class Pool(ProcessPoolExecutor):
        def submit(self, *given: Any, **named: Any) -> "Future[Any]":
            # Processes start here and inherit the mask: Ctrl-C waits until `_end_at_ctrl_c` has run in them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return super().submit(*given, **named)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return Pool(workers, get_context(start), _end_at_ctrl_c)


def _end_at_ctrl_c() -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def reading(
    what: object, do: str = AGAIN, error: type[T3DError] = CorruptArtefactError, fault: str = "cannot be read"
) -> Iterator[None]:
    """Turn whatever parsing a file raises into one sentence.

    Args:
        what: begins the sentence; the file, and the line or row where there is one.
        do: ends it.
        error: its class.
        fault: what is wrong with the file, before the reason.

    Raises:
        error: parsing failed. An error of the disk, and a T3DError, pass through.
    """
    try:
        yield
    except T3DError:
        raise
    except Exception as found:
        if isinstance(found, OSError) and found.errno is not None:
            raise
        raise error(f"{what} {fault}: {told(found)}. {do}") from found


def told(error: Exception) -> str:
    """What an exception says, in few words."""
    if isinstance(error, KeyError):
        return f"{error} is missing, or is nothing that is known"
    if isinstance(error, UnicodeError):
        return f"it is not text in UTF-8 ({short(error)})"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return short(error) or type(error).__name__


def short(value: object) -> str:
    """A text on one line, its middle left out if it is long."""
    text = str(value)
    text = " ".join((text if len(text) < 2000 else f"{text[:1000]}{text[-1000:]}").split()).rstrip(".")
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 60]} ... {text[-50:]}"


_OF_SYSTEM = {
    errno.ENOSPC: "there is no space left on its disk; make room and run the command again",
    errno.EDQUOT: "your quota of its disk is used up; make room and run the command again",
    errno.EFBIG: "the file would be larger than its disk or `ulimit -f` allows",
    errno.EACCES: "you do not have permission to read or write it",
    errno.EPERM: "you do not have permission to change it",
    errno.EROFS: "its disk can only be read; choose another place",
    errno.ENAMETOOLONG: "the name is too long for its disk; choose a shorter one",
    errno.EISDIR: "it is a folder, expected a file",
    errno.ENOTDIR: "a part of the path is a file, expected a folder",
    errno.ENOENT: "there is no such file or folder",
    errno.EEXIST: "there is already something of this name",
    errno.ELOOP: "its links lead round in a ring",
    errno.EMFILE: "too many files are open (`ulimit -n`)",
    errno.EIO: "its disk reports an error; look at the system's log",
}


def of_system(error: OSError) -> str:
    """What the operating system refused, and what to do: one sentence for `t3d` to print."""
    paths = [str(name) for name in (error.filename, error.filename2) if name is not None]
    why = _OF_SYSTEM.get(error.errno or 0, error.strerror or str(error))
    # Libraries raise OSError without a number when a server cannot be reached: no file is meant.
    where = short(" to ".join(paths)) or ("a file, or what this prints" if error.errno else "")
    return f"{where}: {why}." if where else f"{why.rstrip('.')}."
