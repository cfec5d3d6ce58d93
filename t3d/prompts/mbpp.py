"""MBPP: short Python tasks with assertions, from the benchmark's own file (either edition, full or sanitized).

The files that public repositories carry hold all splits, so a task's number decides its split, as the benchmark says.
A question shows the task and its assertions, which name the function and its arguments; the same assertions are the
hidden check's, as the benchmark defines it (`t3d/evaluation/programs.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t3d.errors import DataError, reading
from t3d.prompts.entry_points import entry_point_of
from t3d.prompts.files import Place, text, value
from t3d.prompts.questions import Question

_INSTRUCTION = "Write a Python function. Answer with the whole function in a code block.\n\n"


SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""Split -> the numbers of its tasks; 1 to 10 are for prompts with examples, and in none of them."""


def problems(path: Path, rows: list[dict[str, Any]], split: str | None) -> Iterator[Question]:
    """Yield the tasks of a file that belong to `split`, or all tasks if that is None, in the file's order.

    Raises:
        DataError: a row lacks a column, its task number is not a number, or its assertions call no function of its
            reference solution; or the file has no task of the split.
    """
    tasks = [_task(path, number, row) for number, row in enumerate(rows)]
    if split is not None and not any(task in SPLITS[split] for task in tasks):
        raise DataError(
            f"{path}: no task of split {split} (task_id {SPLITS[split][0]} to {SPLITS[split][-1]}); it has "
            f"{f'{min(tasks)} to {max(tasks)}' if tasks else 'no rows'}."
        )
    for number, row in enumerate(rows):
        if split is not None and tasks[number] not in SPLITS[split]:
            continue
        # The sanitized edition calls the task `prompt` and lists imports, the full one `text` and has one setup.
        asked, code = text(path, number, row, "text" if row.get("text") else "prompt"), text(path, number, row, "code")
        with reading(Place(path, number), "Fetch or copy it again.", DataError):
            tests = list(value(path, number, row, "test_list"))
            setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
        try:
            entry_point = entry_point_of(code, tests)
        except DataError as error:
            raise DataError(f"{Place(path, number)}: {error}") from error
        checks = {"entry_point": entry_point, "tests": tests, "setup": setup}
        shown = "\n".join(tests)
        yield Question(
            id=str(tasks[number]),
            question=f"{_INSTRUCTION}{asked}\n\nYour function should satisfy:\n{shown}",
            answer=json.dumps(checks),
            solution=f"```python\n{code}\n```",
        )


def _task(path: Path, number: int, row: dict[str, Any]) -> int:
    task = value(path, number, row, "task_id")
    if not str(task).isdecimal():
        raise DataError(f"{Place(path, number)}: task_id {task!r} is not the number of a task of MBPP.")
    return int(task)
