"""Watch answers being written, side by side: blocks fill step by step, tokens have the colour of their step.

All columns take a denoising step at a time, so that what needs fewer steps is finished sooner, as on a GPU.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from t3d.terminal.decode import Answer, verdict

if TYPE_CHECKING:
    from t3d.prompts.reader import Prompt

_COLOURS = tuple(f"color({number})" for number in (46, 118, 190, 220, 208, 203, 205, 141))
"""From the first step of a block (green) to its last (violet); on dark and light grounds alike."""
_MASK = "░░ "
_LEAST = 32
"""Columns of a terminal; narrower panels stand below each other."""


def show(answers: Sequence[Answer], pace: float, console: Console) -> None:
    """Draw answers on a terminal, and their statistics below.

    Args:
        answers: columns, from left to right.
        pace: denoising steps per second; 0 shows the end alone.
        console: of a terminal.
    """
    last = max(len(states(answer)) for answer in answers) - 1
    if prompt := answers[0].prompt:
        console.print(question(prompt))
    with Live(console=console, auto_refresh=False) as live:
        for number in range(0 if pace else last, last + 1):
            live.update(_columns(answers, number, console.width), refresh=True)
            if number < last:
                time.sleep(1 / pace)
    for answer in answers:
        console.print(answer.statistics(), style="bold", highlight=False, markup=False)
    if pace and all(answer.seconds for answer in answers):
        console.print(
            f"Replayed at {pace:g} steps a second; the times are the decoder's own.", style="dim", highlight=False
        )


def question(prompt: "Prompt") -> Panel:
    """What was asked, and what a right answer holds."""
    asked = Text.assemble(prompt.text.strip(), "\n\n", ("expected: ", "dim"), prompt.expected)
    return Panel(asked, title=Text(f"Question {prompt.id}"))


def states(answer: Answer) -> list[tuple[int, int]]:
    """What there is to see, in order: (tokens of the blocks begun, step within the last of them).

    The first state has only masks; after it comes one per denoising step.
    """
    found = [(_blocks(answer)[0][1], 0)]
    for start, end in _blocks(answer):
        found += [(end, step) for step in range(1, max(answer.step_map[start:end]) + 1)]
    return found


def _blocks(answer: Answer) -> list[tuple[int, int]]:
    # The grid is that of prompt and answer together, and the last block is whole: the first may be a part of one.
    size, count = answer.budget.block_size, len(answer.step_map)
    ends = range(count % size or size, count + 1, size)
    return [(max(end - size, 0), end) for end in ends]


def picture(answer: Answer, number: int) -> Text:
    """The answer after `number` denoising steps; finished ones stay as they are."""
    seen = states(answer)
    end, step = seen[min(number, len(seen) - 1)]
    block = next(start for start, stop in _blocks(answer) if stop == end)
    text = Text()
    for place in range(end):
        if place < block or answer.step_map[place] <= step:
            text.append(answer.pieces[place], style=_colour(answer, answer.step_map[place]))
        else:
            text.append(_MASK, style="dim")
    return text


def _colour(answer: Answer, step: int) -> str:
    steps = _steps(answer)
    return _COLOURS[(step - 1) * (len(_COLOURS) - 1) // max(steps - 1, 1)]


def _steps(answer: Answer) -> int:
    return answer.budget.steps or max(answer.step_map)


def _columns(answers: Sequence[Answer], number: int, width: int) -> RenderableType:
    return side_by_side([_panel(answer, number) for answer in answers], width)


def side_by_side(panels: Sequence[Panel], width: int) -> RenderableType:
    """Panels beside each other, as many as are wide enough to be read."""
    grid = Table.grid(expand=True)
    beside = min(max(width // _LEAST, 1), len(panels))
    for _ in range(beside):
        grid.add_column(ratio=1)
    for at in range(0, len(panels), beside):
        grid.add_row(*panels[at : at + beside])
    return grid


def _panel(answer: Answer, number: int) -> Panel:
    last = len(states(answer)) - 1
    legend = Text()
    legend.append("step ", style="dim")
    for step in range(1, _steps(answer) + 1):
        legend.append(f"{step} ", style=_colour(answer, step))
    if answer.right is not None and number >= last:
        legend.append_text(verdict_mark(answer.right))
    return Panel(
        Group(picture(answer, number), Text(), legend),
        title=Text(answer.label),
        subtitle=Text(f"{min(number, last)} of {last} steps"),
    )


def verdict_mark(right: bool) -> Text:
    """A verdict in its colour."""
    return Text(f" {verdict(right)}", style="bold green" if right else "bold red")
