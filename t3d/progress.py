"""Progress of long work: a live bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts towards `total`, with the rate, the time left and any numbers worth watching."""

    def __init__(self, title: str, total: int, done: int = 0, file: Path | None = None) -> None:
        """Begin to show it; `done` were finished before, and say nothing about the rate. `file` gets the number, too,
        for others to read."""
        self.file = file
        self.title, self.total, self.done, self.before = title, total, done, done
        self.started = self.shown = time.monotonic()
        self.bar: RichProgress | None = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            console = Console(file=sys.stderr)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Bar(*columns, TextColumn("{task.fields[numbers]}"), console=console)
            self.bar.start()
            self.task = self.bar.add_task(title, total=total, completed=done, numbers="")

    def due(self) -> bool:
        """Whether a call of `update` would show something, so that numbers which are not shown need not be computed."""
        wait = 0.2 if self.bar else _SECONDS_BETWEEN_LINES
        return time.monotonic() - self.shown >= wait

    def advance(self, number: int) -> None:
        """Say that `number` more are finished."""
        self.update(self.done + number)

    def update(self, done: int, **numbers: float) -> None:
        """Say that `done` of the total are finished; `numbers` are shown beside it."""
        self.done = done
        finished = done >= self.total
        if self.file is not None:
            # A full disk fails the next state, which says more.
            with suppress(OSError):
                self.file.write_text(f"{done}\n")
        if not finished and not self.due():
            return
        self.shown = time.monotonic()
        text = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        if self.bar is not None:
            self.bar.update(self.task, completed=done, numbers=text)
            if finished:
                self.bar.stop()
            return
        elapsed = max(self.shown - self.started, 1e-9)
        rate = (done - self.before) / elapsed
        left = (self.total - done) / rate if rate else float("inf")
        ending = f"done in {elapsed:.0f} s" if finished else f"{left:.0f} s left"
        # Nobody reads any more: that is no reason to stop working.
        with suppress(BrokenPipeError):
            line = f"{self.title}: {done}/{self.total}, {rate:.3g}/s, {ending}  {text}".rstrip()
            print(line, file=sys.stderr, flush=True)
