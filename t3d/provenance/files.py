"""Files that appear when they are complete, and folders that one process at a time writes to."""

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t3d.errors import BusyError

_LOCK = "writer"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path in a folder beside `path`, moved there on success and removed on failure.

    Raises:
        BusyError: another process is about to replace it.
    """
    with exclusive(path.with_name(f".{path.name}.partial"), str(path)) as folder:
        partial = folder / path.name
        try:
            yield partial
        except OSError as error:
            # A write that fails does not say to what.
            if error.errno and error.filename is None:
                error.filename = str(path)
            raise
        os.replace(partial, path)


@contextmanager
def exclusive(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder below `folder` that no other process uses; it is removed at the end.

    What a killed process left in `folder` is removed first.

    Args:
        folder: the same for all processes that write one thing.
        name: of that thing, for messages.

    Raises:
        BusyError: another process uses it, also one on another machine that shares the file system and its locks.
    """
    lock = _lock(folder, name)
    try:
        _clear(folder)
        (folder / "files").mkdir()
        yield folder / "files"
    finally:
        _clear(folder)
        # While it is locked: a process that has opened it by now sees that it is gone, and makes another.
        (folder / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        os.close(lock)


def _lock(folder: Path, name: str) -> int:
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    while True:
        with suppress(FileExistsError):
            folder.mkdir()
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            # The process that had it has ended since.
            continue
        except NotADirectoryError:
            # Older versions wrote to a file of this name.
            folder.unlink()
            continue
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # On a file system without locks a process goes on as if it were alone.
            if error.errno in (errno.EAGAIN, errno.EACCES):
                writer = os.read(file, 200).decode(errors="replace")
                os.close(file)
                if not writer:
                    # It has had it for less than this.
                    time.sleep(0.01)
                    continue
                raise BusyError(
                    f"{name} is being written by {writer}; nothing was changed here. Wait until that has ended, then "
                    f"run the command again. If that machine is gone, remove {folder} first."
                ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.lstat()):
                try:
                    os.truncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                except OSError as error:
                    # Without a name in it the lock would be waited for as long as it lies there.
                    path.unlink()
                    with suppress(OSError):
                        folder.rmdir()
                    os.close(file)
                    raise OSError(error.errno, error.strerror, name) from error
                return file
        os.close(file)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink(missing_ok=True)
