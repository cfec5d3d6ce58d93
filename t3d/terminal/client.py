"""The command `t3d`: asks the parent of this run of Snakemake for a child that does the job (`parent.py`).

A job starts with this file and little of the standard library. Without a parent, or if it says no or is gone, the job
is done in this process.
"""

import gc
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from t3d.errors import in_a_sentence

ADDRESS = "T3D_PARENT"
"""Environment variable: the name of the parent's socket. It is no file: Linux's abstract names need no folder."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_RECEIVED = 2**16
LOST = "The process that jobs are forked from has ended; this job begins again without it."


def main() -> None:
    """Run the command line."""
    if name := os.environ.get(ADDRESS):
        with socket.socket(socket.AF_UNIX) as parent:
            status = _status_of_child(parent, name)
        if status is not None:
            _end_like(status)
    collect_seldom()
    with in_a_sentence():
        cli = import_module("t3d.cli")
    # Not within: it has a sentence of its own, and the inner of two would not hear Ctrl-C.
    cli.main()


def collect_seldom() -> None:
    """Look for garbage less often than Python does.

    PyTorch and transformers make a million objects that live to the end. Looking among them as they load took a tenth
    of the start.
    """
    gc.set_threshold(100_000, 20, 20)


def peer(connection: socket.socket) -> int:
    """The user on the other side of a socket: everybody on this machine can connect to one without a folder."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]


def send(connection: socket.socket, request: dict, files: Sequence[int]) -> None:
    """Ask for a job whose standard input, output and error are `files`."""
    content = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("I", len(content))], list(files))
    connection.sendall(content)


def received(connection: socket.socket, seconds: float | None) -> tuple[dict, list[int]]:
    """What `send` sent, waited for so long; nothing if it is somebody else's, or if the other side is gone."""
    connection.settimeout(seconds)
    files: list[int] = []
    try:
        if peer(connection) != os.getuid():
            return {}, []
        length, files, _, _ = socket.recv_fds(connection, struct.calcsize("I"), 3)
        left, content = struct.unpack("I", length)[0], b""
        while left > len(content) and (more := connection.recv(min(left - len(content), _RECEIVED))):
            content += more
        return json.loads(content), files
    except (OSError, ValueError, struct.error):
        return {}, files


def _status_of_child(parent: socket.socket, name: str) -> int | None:
    """Exit status of the child that did the job, the negative number of the signal that ended it; None without one."""
    heard: list[int] = []

    def pass_on(number: int, _: object) -> None:
        heard.append(number)
        with suppress(OSError):
            parent.send(bytes([number]))

    request = {
        "argv": sys.argv,
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "prefix": sys.prefix,
        "ignored": [number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN],
    }
    said = b""
    try:
        parent.connect("\0" + name)
        if peer(parent) != os.getuid():
            return None
        send(parent, request, [0, 1, 2])
        before = {number: signal.signal(number, pass_on) for number in PASSED_ON if number not in request["ignored"]}
        said = parent.recv(16)
    except OSError:
        pass
    else:
        for number, handler in before.items():
            signal.signal(number, handler)
    if said == b"no":
        return None
    if said:
        return int(said)
    if heard:
        return -heard[-1]
    print(f"t3d: {LOST}", file=sys.stderr)
    return None


def _end_like(status: int) -> None:
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    sys.exit(status)
