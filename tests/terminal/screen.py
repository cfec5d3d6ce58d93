"""A pseudo-terminal for commands."""

import os
import pty
from collections.abc import Sequence
from pathlib import Path

from tests.started import Fork


def drawn_by(command: Sequence[str], folder: Path, seconds: int = 120) -> str:
    """Everything a command draws on a terminal; it must end well, within `seconds` of its last line."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}
    process = Fork(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    drawn = b""
    # Reading fails when the last process has closed the terminal.
    while True:
        try:
            drawn += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(timeout=seconds) == 0, drawn.decode()
    return drawn.decode()
