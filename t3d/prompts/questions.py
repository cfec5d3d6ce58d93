"""Questions of a file whose columns the experiment names: MATH500, GSM8K, the training prompts of the paper."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.errors import DataError
from t3d.params import Columns
from t3d.prompts.files import value


@dataclass(frozen=True)
class Question:
    """One row: `solution` is its worked answer, `answer` the final one; both empty where the file has none."""

    id: str
    question: str
    answer: str
    solution: str


def problems(path: Path, rows: list[dict[str, Any]], columns: Columns) -> Iterator[Question]:
    """Yield the questions of a file in its order.

    Raises:
        DataError: a row lacks a column, or its answer does not fit the pattern; the message names file and row.
    """
    for number, row in enumerate(rows):
        answer = str(value(path, number, row, columns.answer)) if columns.answer else ""
        if columns.answer_pattern:
            match = re.search(columns.answer_pattern, answer)
            if match is None:
                raise DataError(
                    f"{path}, row {number}: {columns.answer} {answer[-60:]!r} has no answer by the pattern."
                )
            answer = match.group(1).strip()
        yield Question(
            id=str(value(path, number, row, columns.id)) if columns.id else str(number),
            question=str(value(path, number, row, columns.question)),
            answer=answer,
            solution=str(value(path, number, row, columns.reference)) if columns.reference else "",
        )
