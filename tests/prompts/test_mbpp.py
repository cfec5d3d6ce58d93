"""MBPP's rows as prompts: both editions, and a whole way from row to verdict."""

import json
from pathlib import Path

import pytest

from t3d.errors import DataError
from t3d.evaluation.extraction import program_in
from t3d.evaluation.programs import PROGRAMS
from t3d.prompts import files, mbpp
from tests.sandboxed import bubblewrap

FULL = {
    "task_id": 11,
    "text": "Write a python function to double a number.",
    "code": "def helper(x):\r\n  return x\r\ndef double(x):\r\n  return 2 * helper(x)",
    "test_list": ["assert double(2) == 4", "assert double(-1) == -2"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 12,
    "prompt": "Write a function to round up.",
    "code": "import math\ndef up(x):\n    return math.ceil(x)",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(up(1.2), 2)"],
}
FILE = Path("mbpp.parquet")


def test_a_question_shows_the_task_and_its_assertions():
    (question,) = mbpp.problems(FILE, [FULL], "test")
    assert question.id == "11"
    assert question.question.startswith("Write a Python function.")
    assert FULL["text"] in question.question
    assert question.question.endswith("assert double(2) == 4\nassert double(-1) == -2")
    assert json.loads(question.answer)["entry_point"] == "double"


def test_the_place_of_a_row_without_a_fault_is_not_looked_for(monkeypatch):
    """For it the whole file is read."""
    monkeypatch.delattr(files.Place, "__str__")
    monkeypatch.setattr(files.Place, "__repr__", lambda self: pytest.fail("it was"))
    assert len(list(mbpp.problems(Path("mbpp.jsonl"), [FULL, SANITIZED], "test"))) == 2


@pytest.mark.parametrize("row", [FULL, SANITIZED], ids=["full", "sanitized"])
@pytest.mark.parametrize(("split", "first", "last"), [("test", 11, 510), ("validation", 511, 600), ("train", 601, 974)])
def test_a_file_of_all_splits_gives_the_tasks_of_one(row, split, first, last):
    rows = [row | {"task_id": number} for number in range(1, 975)]
    found = [int(question.id) for question in mbpp.problems(FILE, rows, split)]
    assert found == list(range(first, last + 1))
    own = [row | {"task_id": str(number)} for number in range(first, last + 1)]
    assert [int(question.id) for question in mbpp.problems(FILE, own, split)] == found


@bubblewrap
@pytest.mark.parametrize("row", [FULL, SANITIZED], ids=["full", "sanitized"])
def test_the_reference_passes_and_another_program_does_not(row, box):
    (question,) = mbpp.problems(FILE, [row], "test")
    name = json.loads(question.answer)["entry_point"]
    for text, passes in ((question.solution, True), (f"```python\ndef {name}(x):\n    return 0\n```", False)):
        test = PROGRAMS["mbpp"](question.answer, program_in(text, name))
        assert box.judge(test.source, test.entry_point, test.check).passed == passes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_list": ["assert other(1) == 2"]}, r"row 0 \(counted from 0\): the tests call none of double, helper"),
        ({"code": "def ("}, r"row 0 \(counted from 0\): the solution or a test is no Python"),
        ({"text": None}, r"row 0 \(counted from 0\): no 'prompt'. Its columns: task_id"),
        (
            {"task_id": "HumanEval/1"},
            r"row 0 \(counted from 0\): task_id 'HumanEval/1' is not the number of a task of MBPP",
        ),
        ({"task_id": 601}, r"no task of split test \(task_id 11 to 510\); it has 601 to 601"),
    ],
)
def test_a_row_that_does_not_fit_is_named(change, message):
    with pytest.raises(DataError, match=message):
        list(mbpp.problems(FILE, [FULL | change], "test"))
