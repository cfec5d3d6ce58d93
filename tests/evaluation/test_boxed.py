"""Answers in boxes: which one is extracted, what equals what, and that no answer crashes or stalls the scoring."""

import re
import subprocess
import sys
import time

import pytest

from t3d.errors import MissingInputError
from t3d.evaluation import boxed, equality
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
    started = time.monotonic()
    assert last_box(r"\boxed{" + "{" * 100_000) == ""
    assert last_box(r"\boxed{" * 15_000) == ""
    assert last_box(r"\boxed{" + "{" * 50_000 + "}" * 50_001) == "{" * 50_000 + "}" * 50_000
    assert time.monotonic() - started < 1


EQUAL = [
    ("1,450", "1450"),
    ("1450", "1,450"),
    ("1450", r"\$1,450.00"),
    ("1450", r"1{,}450"),
    ("18", r"\$18"),
    ("18", "$18$"),
    ("18", r"18\text{ dollars}"),
    ("18", "18 dollars"),
    ("1450", r"1\,450"),
    ("18", "18.0"),
    ("18", "18."),
    ("18", r"9 \times 2"),
    ("5", "x=5"),
    ("x=5", "5"),
    ("10", r"10\text{ cm}^2"),
    (r"90^\circ", "90"),
    ("50", r"50\%"),
    (r"50\%", "50"),
    (r"\frac{1}{2}", r"\dfrac{1}{2}"),
    (r"\frac12", "0.5"),
    (r"\frac{1}{3}", "0.333333"),
    (r"1\frac{2}{3}", r"\frac{5}{3}"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\pi}{2}", r"0.5\pi"),
    ("x^2+2x+1", "(x+1)^2"),
    ("(1,2)", "(1, 2)"),
    ("1,2", "2, 1"),
    ("1,-2", r"1 \text{ and } -2"),
    (r"\pm 2", "2,-2"),
    ("[0,1)", r"\left[0, 1\right)"),
    (r"(3,\infty)", r"(3,+\infty)"),
    ("[-2,7]", r"x \in [-2,7]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(C)}", "C"),
    ("2516_8", "2516_{8}"),
]
UNEQUAL = [
    ("18", "19"),
    (r"\frac{1}{3}", "0.333"),
    ("0.5", r"50\%"),
    ("x=5", "y=5"),
    ("5", "5=x"),
    ("(1,2)", "(2,1)"),
    ("1,2", "1,2,3"),
    ("3", "3,4"),
    ("3", r"3 \text{ or } 4"),
    ("[0,1)", "(0,1)"),
    ("(0,1)", "0<x<1"),
    (r"(-\infty,3]", r"x\le 3"),
    ("70", "70.0000001"),
    # The last number of what cannot be read is no answer.
    ("18", r"\frac{3}{ + 18"),
    ("18", r"12 \oops 18"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_answers_that_are_equal(gold, answer):
    assert compare(gold, answer) == (True, "equal")


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_answers_that_are_not(gold, answer):
    equal, reason = compare(gold, answer)
    assert not equal
    assert reason in ("not equal", "the answer cannot be read")


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
    compare("3", "3")
    for name, answer in HOSTILE.items():
        started = time.monotonic()
        equal, reasons[name] = compare("3", answer)
        assert not equal
        assert time.monotonic() - started < 8, name
        assert compare("3", r"\frac{6}{2}") == (True, "equal")
    assert reasons["a tower of exponents"] == "comparing it takes more than 1 s"
    assert reasons["a hundred kilobytes"] == "an answer of more than 1000 characters"


def test_a_missing_math_verify_is_said(monkeypatch, tmp_path):
    (tmp_path / "equality.py").write_text("import math_verify_that_is_not_there")
    monkeypatch.setattr(equality, "__file__", str(tmp_path / "equality.py"))
    boxed._process.cache_clear()
    with pytest.raises(MissingInputError, match="is math-verify installed"):
        compare("3", "3")
    monkeypatch.undo()
    assert compare("3", "3") == (True, "equal")
