"""MBPP: short Python tasks with assertions, from the benchmark's own file (either edition, full or sanitized).

A question shows the task and its assertions, which name the function and its arguments; the same assertions are the
hidden check's, as the benchmark defines it (`t3d/evaluation/programs.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t3d.errors import DataError
from t3d.prompts.entry_points import entry_point_of
from t3d.prompts.files import value
from t3d.prompts.questions import Question

_INSTRUCTION = "Write a Python function. Answer with the whole function in a code block.\n\n"


def problems(path: Path, rows: list[dict[str, Any]]) -> Iterator[Question]:
    """Yield the tasks of a file in its order.

    Raises:
        DataError: a row lacks a column, or none of its assertions calls a function of its reference solution.
    """
    for number, row in enumerate(rows):
        # The sanitized edition calls the task `prompt` and lists imports, the full one `text` and has one setup.
        text = row.get("text") or value(path, number, row, "prompt")
        tests, code = list(value(path, number, row, "test_list")), value(path, number, row, "code")
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
        try:
            entry_point = entry_point_of(code, tests)
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        checks = {"entry_point": entry_point, "tests": tests, "setup": setup}
        shown = "\n".join(tests)
        yield Question(
            id=str(value(path, number, row, "task_id")),
            question=f"{_INSTRUCTION}{text}\n\nYour function should satisfy:\n{shown}",
            answer=json.dumps(checks),
            solution=f"```python\n{code}\n```",
        )
