"""What a generated program is tested with: its function, and a check that runs on the trusted side of the sandbox.

A domain of programs has one function here; `scores.py` runs what it returns in `sandbox.py`.
"""

import ast
import builtins
import json
import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from t3d.errors import DataError
from t3d.evaluation import asserts
from t3d.evaluation.extraction import defines
from t3d.prompts.entry_points import first_called
from t3d.prompts.reader import Prompt
from t3d.sandbox.sandbox import Limits, Program, check_cases

Check = Callable[[Program], None]


@dataclass(frozen=True)
class ProgramTest:
    """A program, the function it should define, and what that function must do."""

    source: str | tuple[str, ...]
    """The program, or it and what stands before or after it in its module."""
    entry_point: str
    check: Check
    limits: Limits | None = None


def code_test(answer: str, program: str) -> ProgramTest:
    """Test of a problem of `t3d/prompts/code.py`: pairs of argument and result."""
    tests = json.loads(answer)
    return ProgramTest(program, tests["entry_point"], check_cases([tuple(case) for case in tests["cases"]]))


def humaneval_test(answer: str, program: str) -> ProgramTest:
    """Test of a HumanEval problem: the package's `check`.

    Some checks use helpers that the problem's prompt defines, and so may answers: both get them. An answer that does
    not define the function is taken for the rest of the prompt.
    """
    tests = json.loads(answer)
    name, prompt = tests["entry_point"], tests["prompt"]
    source = (_with_body(prompt), program) if defines(program, name) else prompt + program
    return ProgramTest(source, name, _reference_check(tests))


def _with_body(prompt: str) -> str:
    # A prompt ends where the body of its function begins.
    return f"{prompt}    pass\n"


def _reference_check(tests: dict[str, str]) -> Check:
    # One check calls the function by its name, too.
    name = tests["entry_point"]
    tree = asserts.with_wrapped_calls(ast.parse(_with_body(tests["prompt"]) + tests["test"]), {"candidate", name})
    code = compile(tree, "<test>", "exec")

    def check(candidate: Program) -> None:
        namespace: dict[str, Any] = {"__builtins__": vars(builtins) | {"__import__": _seeded_import}}
        exec(code, namespace)
        namespace[name] = candidate
        namespace["check"](candidate)

    return check


class _SeededRandom(random.Random):
    """Stands for the module `random` in a test, so that a verdict does not depend on luck."""

    Random = random.Random

    def __init__(self) -> None:
        super().__init__(0)


def _seeded_import(name: str, *rest: Any) -> "ModuleType | _SeededRandom":
    return _SeededRandom() if name == "random" else __import__(name, *rest)


# The slowest of MBPP's own solutions, 123, computes for 3 s here; other machines are slower.
_MBPP_LIMITS = Limits(seconds=15.0)


def mbpp_test(answer: str, program: str) -> ProgramTest:
    """Test of an MBPP problem: its assert statements, as `asserts.py` evaluates them.

    `answer` is `{"entry_point": .., "tests": [..], "setup": ".."}`. The setup runs in the sandbox, after the program:
    it makes objects of a class that the program is to define.

    Raises:
        DataError: a test is no assert statement about values of the function.
    """
    return _asserted_test(answer, program, _MBPP_LIMITS)


def written_test(answer: str, program: str) -> ProgramTest:
    """Test of a task that a model wrote: the assert statements that stand in it (`answer_of`), as MBPP's."""
    return _asserted_test(answer, program, None)


def _asserted_test(answer: str, program: str, limits: Limits | None) -> ProgramTest:
    tests = json.loads(answer)
    name = tests["entry_point"]
    statements = [asserts.read(source, name) for source in tests["tests"]]
    imports = "".join(f"import {module}\n" for module in sorted({m for s in statements for m in s.modules}))

    def check(candidate: Program) -> None:
        for statement in statements:
            asserts.run(statement, candidate)

    return ProgramTest((program, imports + tests["setup"]), name, check, limits)


PROGRAMS: dict[str, Callable[[str, str], ProgramTest]] = {
    "code": code_test,
    "humaneval": humaneval_test,
    "mbpp": mbpp_test,
    "written": written_test,
}
"""Domain -> test of a prompt's `answer` and a program; other domains have answers to compare. Each answer is JSON with
the `entry_point`, the name of the function."""
UNTESTED = "the task has no assert statement that can be evaluated"
"""The verdict on a program for a task that a model wrote without one."""


def answer_of(prompt: Prompt) -> str:
    """A prompt's answer; of a task that a model wrote, made of the lines with assert statements, as MBPP's.

    The first statement that can be evaluated names the function, and others count if they can be evaluated and call it.
    Without such a statement, the answer is empty.
    """
    if prompt.domain != "written":
        return prompt.answer
    name, tests = "", []
    with warnings.catch_warnings():
        # Of escapes such as "\\d", which the model's strings have.
        warnings.simplefilter("ignore")
        for line in prompt.text.splitlines():
            if line.startswith("assert ") and (called := name or first_called(line)):
                with suppress(DataError):
                    tests.append(f"assert {asserts.read(line, called).source}")
                    name = called
    return json.dumps({"entry_point": name, "tests": tests, "setup": ""}) if tests else ""
