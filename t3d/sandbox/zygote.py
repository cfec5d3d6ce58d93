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
from pathlib import Path
from typing import IO

from t3d.errors import MissingInputError, ParameterError
from t3d.sandbox import seccomp, worker

DISK_MB = 16
"""Size of a sandbox's /tmp, and the largest file."""
_SECONDS = 30.0
# The order of a set of texts, and with it a verdict, follows from the seed of their hashes.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_NOBODY = "65534"


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


def _command(kind: str, filter_file: IO[bytes]) -> list[str]:
    machine = platform.machine()
    # The interpreter of a virtual environment, without the environment: programs get the standard library. As `-I`
    # would, which ignores the seed of hashes, this leaves out the folders of the user and of the script.
    python = [os.path.realpath(sys.executable), "-sSPB"]
    of_programs = seccomp.in_programs(machine).hex()
    if kind == "process":
        return [*python, worker.__file__, of_programs]
    if kind != "bubblewrap":
        raise ParameterError(f"sandbox is bubblewrap or process, not {kind!r}.")
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise MissingInputError(
            "generated programs run in bubblewrap, and there is no `bwrap` on this machine. Install it (apt-get "
            "install bubblewrap, dnf install bubblewrap), or ask for the weaker `sandbox: process` on a machine that "
            "can be thrown away."
        )
    filter_file.write(seccomp.everywhere(machine))
    filter_file.seek(0)
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
        # Signals from within its namespace do not end or stop process 1.
        "--as-pid-1",
        *(part for name, value in _ENVIRONMENT.items() for part in ("--setenv", name, value)),
        *("--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"),
        *folders,
        *("--ro-bind", worker.__file__, "/worker.py"),
        *("--dev", "/dev", "--size", str(DISK_MB * 2**20), "--tmpfs", "/tmp"),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(filter_file.fileno())),
        *(*python, "/worker.py", of_programs),
    ]
