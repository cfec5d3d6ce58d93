"""Questions of a file whose columns the experiment names: MATH500, GSM8K, the training prompts of the paper."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.errors import DataError
from t3d.params import Columns
from t3d.prompts.files import Place, text

_LONGEST = 1000
"""Characters of an answer; what is longer is equal to none (`t3d/evaluation/equality.py`)."""


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
        DataError: a row lacks a column, its answer does not fit the pattern, or cannot be a final answer, so that every
            response to it would be wrong; the message names file and row.
    """
    for number, row in enumerate(rows):
        answer = text(path, number, row, columns.answer, may_be_empty=True) if columns.answer else ""
        if columns.answer_pattern:
            match = re.search(columns.answer_pattern, answer)
            if match is None:
                raise DataError(
                    f"{Place(path, number)}: {columns.answer} {answer[-60:]!r} has no answer by the pattern."
                )
            answer = match.group(1).strip()
        if columns.answer and (fault := _fault_of(answer)):
            raise DataError(
                f"{Place(path, number)}: {columns.answer} is no final answer, it {fault}: {answer[-60:]!r}. Say which "
                "part of it is by columns.answer_pattern; or remove columns.answer, where no benchmark asks these."
            )
        yield Question(
            id=text(path, number, row, columns.id) if columns.id else str(number),
            question=text(path, number, row, columns.question),
            answer=answer,
            solution=_reference_of(path, number, row, columns) if columns.reference else "",
        )


def _reference_of(path: Path, number: int, row: dict[str, Any], columns: Columns) -> str:
    """A row's worked answer, with the edits that the experiment asks for."""
    found = text(path, number, row, columns.reference or "")
    for pattern, replacement in columns.reference_edits or ():
        found = re.sub(pattern, replacement, found)
    if not found.strip():
        raise DataError(f"{Place(path, number)}: columns.reference_edits leave nothing of {columns.reference}.")
    return found


def _fault_of(answer: str) -> str | None:
    """Why a gold answer cannot be a final one, in words; None if it can."""
    if not answer.strip():
        return "is empty"
    if "####" in answer:
        return "has a ####"
    if "\n" in answer.strip():
        return "has several lines"
    return f"has more than {_LONGEST} characters" if len(answer) > _LONGEST else None
