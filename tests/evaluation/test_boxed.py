"""Answers in boxes: which one is extracted, what equals what, and that no answer crashes or stalls the scoring."""

import re
import subprocess
import sys
import time
from itertools import product

import pytest

from t3d.errors import MissingInputError
from t3d.evaluation import boxed, comparison, equality
from t3d.evaluation.boxed import compare, last_box
from tests.conftest import ROOT

BOXES = {
    r"So \boxed{5}.": "5",
    r"\boxed{\frac{1}{2}}": r"\frac{1}{2}",
    r"\boxed{1}, no, \boxed{\text{two}}": r"\text{two}",
    r"\boxed{\boxed{3}}": "3",
    r"\boxed{ 4 } and so on": "4",
    r"\boxed{\{1, 2\}}": r"\{1, 2\}",
    r"\boxed{\left\{ x \right.}": r"\left\{ x \right.",
    r"\boxed{\begin{pmatrix} 1 \\ {2} \end{pmatrix}}": r"\begin{pmatrix} 1 \\ {2} \end{pmatrix}",
    "\\boxed{two\nlines}": "two\nlines",
    r"\boxed{1} and then \boxed{\frac{1}{2}": "",
    r"put your final answer within \boxed{}.": "",
    "The answer is 5.": "",
    "boxed{5} \\fbox{5}": "",
    r"\boxed {5}": "5",
    "\\boxed\n\t{5}": "5",
    r"\boxed{4}, no, \boxed {5}": "5",
    r"\boxed{5\ }": "5",
    r"\boxed{ (1,2)\  }": "(1,2)",
    r"\boxed{x \\ }": r"x \\",
    "": "",
}


@pytest.mark.parametrize("text", BOXES)
def test_the_last_box_is_the_answer_and_a_cut_one_is_none(text):
    assert last_box(text) == BOXES[text]


def test_a_hundred_kilobytes_of_braces_take_no_time():
    started = time.process_time()
    assert last_box(r"\boxed{" + "{" * 100_000) == ""
    assert last_box(r"\boxed{" * 15_000) == ""
    assert last_box(r"\boxed{" + "{" * 50_000 + "}" * 50_001) == "{" * 50_000 + "}" * 50_000
    assert time.process_time() - started < 1


@pytest.mark.parametrize("answer", [r"\frac{3}{ + 18", r"12 \oops 18"])
def test_the_last_number_of_what_cannot_be_read_is_no_answer(answer):
    assert not compare("18", answer)[0]


def test_whole_numbers_are_compared_as_the_process_compares_them(monkeypatch):
    """Those that are written in one way; others go to the process."""
    numbers = ["0", "-1", "7", "20", "1999", "-12345", "10000001", "99999999", "100000000", "999999999999999"]
    expected = {pair: comparison.equal(*pair) for pair in product(numbers, numbers)}
    monkeypatch.setattr(boxed, "_process", lambda: pytest.fail("asked"))
    assert {pair: compare(*pair) for pair in expected} == expected
    for other in ("07", "-0", "1e3", "7.0", " 7", "1000000000000000"):
        with pytest.raises(pytest.fail.Exception):
            compare("7", other)


def test_the_documentation_says_what_is_equal():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    rows = text.split("| gold | equal | not equal |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[re.findall("`([^`]+)`", cell) for cell in row.split("|")[1:4]] for row in rows]
    assert len(cells) > 10
    said = {(gold, answer): equal for (gold,), *rest in cells for equal in (True, False) for answer in rest[not equal]}
    assert {pair: compare(*pair)[0] for pair in said} == said


def test_the_gold_answer_comes_first():
    assert compare("1 < x < 2", "(1,2)") == (True, "equal")
    assert compare("(1,2)", "1 < x < 2") == (False, "not equal")


HOSTILE = {
    "a tower of exponents": "9^{9^{9^{9}}}",
    "factorials": "9!!!!!!",
    "deep brackets": "(" * 400 + "3" + ")" * 400,
    "open braces": "{" * 900,
    "backslashes": "\\" * 900,
    "a long sum": "x^{2}+" * 150 + "1",
    "no text": "\ud800\x00",
    "a hundred kilobytes": "{" * 50_000 + "}" * 50_000,
}


@pytest.fixture
def soon(monkeypatch):
    """Comparisons in a process that ends each of them after one second."""
    code = "import runpy, sys; g = runpy.run_path(sys.argv[1]); g['main'].__globals__['_SECONDS'] = 1; g['main']()"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, equality.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        monkeypatch.setattr(boxed, "_process", lambda: process)
        yield
        process.stdin.close()


def test_a_hostile_answer_is_wrong_and_the_next_one_is_judged(soon):
    reasons = {}
    # The process starts before the first answer.
    compare("3", r"\frac{6}{2}")
    for name, answer in HOSTILE.items():
        started = time.monotonic()
        equal, reasons[name] = compare("3", answer)
        assert not equal
        # Of a second of processor time; the machine may be busy.
        assert time.monotonic() - started < 60, name
        assert compare("3", r"\frac{6}{2}") == (True, "equal")
    assert reasons["a tower of exponents"] == "comparing it takes more than 1 s"
    assert reasons["a hundred kilobytes"] == "an answer of more than 1000 characters"


def test_a_missing_math_verify_is_said(monkeypatch, tmp_path):
    (tmp_path / "equality.py").write_text("import math_verify_that_is_not_there")
    monkeypatch.setattr(equality, "__file__", str(tmp_path / "equality.py"))
    boxed._process.cache_clear()
    with pytest.raises(MissingInputError, match="is math-verify installed"):
        compare("3", r"\frac{6}{2}")
    monkeypatch.undo()
    assert compare("3", r"\frac{6}{2}") == (True, "equal")
