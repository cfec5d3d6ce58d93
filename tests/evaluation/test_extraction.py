"""Which program stands in an answer: fences wherever they are, damaged ones, and several blocks to choose from."""

from pathlib import Path

import pytest
import yaml

from t3d.evaluation.extraction import defines, program_in

F = "def f(n):\n    return 2 * n"
CASES = yaml.safe_load((Path(__file__).parent / "extracted.yaml").read_text())


@pytest.mark.parametrize("text", CASES["same"].values(), ids=CASES["same"])
def test_the_program_is_found_whatever_stands_around_it(text):
    assert program_in(text, "f").strip() == F


@pytest.mark.parametrize("case", CASES["others"].values(), ids=CASES["others"])
def test_the_program_is_found_as_it_was_written(case):
    assert program_in(case["answer"], "f") == case["program"]


def test_what_python_cannot_read_ends_in_no_error():
    for text in ("-" * 20_000 + "1", "```\ndef f(n): return '\0'\n```", "def f(n): return '\ud800'", "(" * 5000):
        assert isinstance(program_in(text, "f"), str)


def test_many_fences_take_no_time():
    for part in ("```\n", '```python\n"""\n', "~~~\n```python\n", "> ```\ndef f(n):\n", "from f\n"):
        assert isinstance(program_in(part * 300, "f"), str)


def test_a_broken_program_defines_a_function_as_well():
    assert defines("def f(n:\n", "f")
    assert defines("x = (\nasync  def f(n):\n", "f")
    assert not defines("def f2(n:\n", "f")
    assert not defines("class A:\n    def f(n:\n", "f")
