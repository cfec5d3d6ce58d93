"""Answers judged in the sandbox: gold solutions pass, empty ones do not, what is expected stays outside."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from t3d.errors import DataError, ParameterError
from t3d.evaluation.extraction import program_in
from t3d.evaluation.programs import PROGRAMS, humaneval_test, mbpp_test
from t3d.params.experiment import PROGRAM_DOMAINS
from t3d.prompts import humaneval
from t3d.prompts.entry_points import entry_point_of
from t3d.sandbox.sandbox import Limits
from tests.sandboxed import bubblewrap

# Domain, answer (the prompt's), text, passes: one line for each way in which right programs were once judged wrong.
JUDGED = [
    json.loads(line)
    for line in (Path(__file__).parent / "judged_answers.jsonl").read_text(encoding="utf-8").splitlines()
]
PROBLEMS = list(humaneval.problems("test", 0))


def verdict(box, problem, text):
    test = humaneval_test(problem.answer, program_in(text, json.loads(problem.answer)["entry_point"]))
    return box.judge(test.source, test.entry_point, test.check)


def test_there_are_164_and_they_are_for_testing_only():
    assert len({problem.id for problem in PROBLEMS}) == 164
    with pytest.raises(ParameterError, match="has split test only, not train"):
        next(humaneval.problems("train", 0))


@bubblewrap
def test_every_solution_of_the_package_passes_and_no_empty_one_does(box):
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(lambda p: verdict(box, p, humaneval.write_solution(p, Random(0))), PROBLEMS))
        wrong = list(pool.map(lambda p: verdict(box, p, "    return None\n"), PROBLEMS[:20]))
    assert [(p.id, v.reason) for p, v in zip(PROBLEMS, right, strict=True) if not v.passed] == []
    assert not any(v.passed for v in wrong)


@bubblewrap
def test_a_completion_without_the_signature_is_the_rest_of_the_prompt(box):
    problem = next(p for p in PROBLEMS if p.id == "HumanEval/53")
    assert json.loads(problem.answer)["entry_point"] == "add"
    assert verdict(box, problem, "    return x + y\n").passed
    assert not verdict(box, problem, "    return x - y\n").passed


@bubblewrap
@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case["kind"])
def test_an_answer_is_judged_as_a_reader_would(box, case):
    program = program_in(case["text"], json.loads(case["answer"])["entry_point"])
    test = PROGRAMS[case["domain"]](case["answer"], program)
    verdict = box.judge(test.source, test.entry_point, test.check, test.limits)
    assert (verdict.passed, verdict.reason) == (case["passes"], verdict.reason)


ANSWERS = {
    "future imports": (0, "from __future__ import annotations\n{solution}", True),
    "future imports before a docstring": (0, '"""Solved."""\nfrom __future__ import annotations\n{solution}', True),
    "no imports": (0, "{bare}", True),
    "the prompt's helper": (38, "{bare}", True),
    "an iterator where a tuple is asked for": (
        37,
        "{solution}\nold = sort_even\ndef sort_even(l): return iter(old(l))",
        True,
    ),
    "an iterator for a list": (34, "{solution}\nold = unique\ndef unique(l): return iter(old(l))", False),
    "truth": (61, "{solution}\nold = correct_bracketing\ndef correct_bracketing(b): return [object()] * old(b)", True),
    "the other truth": (61, "def correct_bracketing(b): return object()", False),
    "a Fraction": (
        4,
        "from fractions import Fraction\n{solution}\nold = mean_absolute_deviation\n"
        "def mean_absolute_deviation(l): return Fraction(old(l))",
        True,
    ),
    "a method": (53, "class Solution:\n    def add(self, x, y): return x + y", False),
    "a lambda": (53, "add = lambda x, y: x + y", True),
    "a coroutine": (53, "async def add(x, y): return x + y", False),
    "text after the body": (53, "    return x + y\n\nThis adds.", False),
}
"""What is special -> HumanEval's problem, answer with its solution (with or without the prompt's imports), passes."""


@bubblewrap
@pytest.mark.parametrize(("number", "answer", "passes"), ANSWERS.values(), ids=ANSWERS)
def test_humaneval_judges_whatever_defines_the_function(box, number, answer, passes):
    problem = PROBLEMS[number]
    bare = problem.solution[problem.solution.rindex("def " + json.loads(problem.answer)["entry_point"]) :]
    text = f"```python\n{answer.format(solution=problem.solution, bare=bare)}\n```"
    assert verdict(box, problem, text).passed is passes


@bubblewrap
def test_a_quoted_prompt_is_not_the_answer(box):
    for problem in PROBLEMS[:10]:
        prompt = json.loads(problem.answer)["prompt"]
        assert verdict(box, problem, f"```python\n{prompt}```\nSo:\n```python\n{problem.solution}\n```").passed
        assert not verdict(box, problem, f"```python\n{prompt}```").passed


TREE = """class Node:
    def __init__(self, value):
        self.value, self.left, self.right = value, None, None


def depth(node):
    return 0 if node is None else 1 + max(depth(node.left), depth(node.right))
"""
MBPP = {
    "plain data": ("def add(a, b):\n    return a + b", "", ["assert add(1, 2) == 3", "assert add([1], [2])==([1, 2])"]),
    "Windows lines": ("def f(x):\r\n\tif x:\r\n\t\treturn x\r\n\treturn 0\r", "", ["assert f(3) == 3 "]),
    "objects of its classes": (
        TREE,
        "root = Node(1)\r\nroot.left = Node(2)",
        ["assert depth(root) == 2", "assert depth(Node(3)) == 1", "assert not depth(None)"],
    ),
    "a message": ("def first(xs):\n    return xs[0]", "", ["assert first([1, 2]) == 1, 2"]),
    "a builtin's name": ("def sum(a, b):\n    return a + b", "", ["assert sum(1, 2) == 3"]),
    "complex numbers": ("def turn(z):\n    return z * 1j", "", ["assert turn(1j) == -1", "assert turn(2) == 2j"]),
    "a dict's relative": (
        "from collections import Counter\ndef count(xs):\n    return Counter(xs)",
        "",
        ["assert count([1, 1]) == {1: 2}"],
    ),
    "values in wrappings": (
        "def halves(n):\n    return [n / 2, n / 2]",
        "",
        [
            "assert set(halves(3)) == {1.5}",
            "assert math.isclose(halves(1)[0], 0.5, rel_tol=0.001)",
            "assert halves(1)[0] < sys.maxsize and halves(math.inf)[0] == math.inf",
        ],
    ),
    "a helper in an argument": (
        "def pair(x):\n    return (x, x)\n\ndef total(p):\n    return sum(p)",
        "",
        ["assert total(pair(2)) == 4", "assert total((1, 2)) == 3"],
    ),
}
"""What is special -> solution, setup, tests, in the shape of MBPP's rows."""


def mbpp_verdict(box, problem, program):
    solution, setup, tests = problem
    answer = {"entry_point": entry_point_of(solution, tests), "tests": tests, "setup": setup}
    test = mbpp_test(json.dumps(answer), program)
    return box.judge(test.source, test.entry_point, test.check, test.limits)


@bubblewrap
@pytest.mark.parametrize("problem", MBPP.values(), ids=MBPP)
def test_a_solution_passes_its_asserts_and_the_empty_program_does_not(box, problem):
    verdict = mbpp_verdict(box, problem, problem[0])
    assert (verdict.passed, verdict.reason) == (True, "passed")
    assert not mbpp_verdict(box, problem, "").passed


WRONG = {
    "def add(a, b):\n    return a - b": "wrong: -1 where add(1, 2) == 3",
    "def add(a, b):\n    return 1 / 0": "ZeroDivisionError: division by zero",
    "def add(a, b):\n    raise SystemExit(0)": "SystemExit: 0",
    "def add(a, b):\n    return (x for x in [3])": "TypeError: generator is not plain data",
    "def add(a, b):\n    return 3 + 10**5000": (
        "wrong: a value with a number of more than 4300 digits where add(1, 2) == 3"
    ),
    "class Yes:\n    def __eq__(self, other):\n        return True\n\ndef add(a, b):\n    return Yes()": (
        "TypeError: Yes is not plain data"
    ),
    "def plus(a, b):\n    return a + b": "NameError: name 'add' is not defined",
    "def add(a, b)\n    return a + b": "SyntaxError: expected ':' (<answer>, line 1)",
    "raise AssertionError": "AssertionError: ",
}


@bubblewrap
@pytest.mark.parametrize("program", WRONG)
def test_a_program_that_does_not_pass_is_told_why(box, program):
    assert mbpp_verdict(box, MBPP["plain data"], program).reason == WRONG[program]


@bubblewrap
def test_a_program_that_does_not_end_fails_at_its_limit(box):
    solution, _, tests = MBPP["plain data"]
    answer = json.dumps({"entry_point": entry_point_of(solution, tests), "tests": tests, "setup": ""})
    test = mbpp_test(answer, "def add(a, b):\n    while True:\n        pass")
    assert test.limits.seconds >= 10
    assert box.judge(test.source, test.entry_point, test.check, Limits(seconds=0.5)).reason.startswith("it took more")


@bubblewrap
def test_a_program_sees_the_calls_and_never_what_is_expected(box):
    spy = """
import gc, sys
def add(a, b):
    frame, texts = sys._getframe(), []
    while frame:
        texts += [v for v in frame.f_locals.values() if isinstance(v, (str, dict))]
        frame = frame.f_back
    return "4321" in repr(texts) or any("4321" in o for o in gc.get_objects() if isinstance(o, str))
"""
    problem = (MBPP["plain data"][0], "", ["assert add(1, 2) == 4321"])
    assert mbpp_verdict(box, problem, spy).reason == "wrong: False where add(1, 2) == 4321"


def test_the_entry_point_is_the_function_that_all_tests_call():
    code = "def f(x):\n    return x\n\ndef g(x):\n    return f(x)\n\nclass C:\n    def h(self): ..."
    assert entry_point_of(code, ["assert g(f(1)) == 1", "assert g(2) == 2"]) == "g"
    assert entry_point_of(code, ["assert f(g(1)) == 1", "assert f(1) == g(1)"]) == "f"
    assert entry_point_of(code, ["assert set(f(1)) == {1}"]) == "f"
    with pytest.raises(DataError, match=r"the tests call none of f, g: .*h\(1\)"):
        entry_point_of(code, ["assert h(1) == 1"])
    with pytest.raises(DataError, match="is no Python"):
        entry_point_of("def f(x: return", ["assert f(1) == 1"])


def test_the_parameters_know_which_domains_are_programs():
    assert set(PROGRAM_DOMAINS) == set(PROGRAMS)
