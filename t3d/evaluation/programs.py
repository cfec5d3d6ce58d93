"""What a generated program is tested with: its function, and a check that runs on the trusted side of the sandbox.

A domain of programs has one function here; `scores.py` runs what it returns in `sandbox.py`.
"""

import builtins
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from t3d.evaluation.sandbox import check_cases

Check = Callable[[Callable[..., Any]], None]


@dataclass(frozen=True)
class ProgramTest:
    """A program, the function it should define, and what that function must do."""

    source: str
    entry_point: str
    check: Check


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
    whole = re.search(rf"^def {re.escape(name)}\b", program, re.MULTILINE) is not None
    return ProgramTest(f"{prompt}    pass\n\n{program}" if whole else prompt + program, name, _reference_check(tests))


def _reference_check(tests: dict[str, str]) -> Check:
    def check(candidate: Callable[..., Any]) -> None:
        # A prompt ends where the body of its function begins.
        source = f"{tests['prompt']}    pass\n\n{tests['test']}"
        namespace: dict[str, Any] = {"__builtins__": vars(builtins) | {"__import__": _seeded_import}}
        exec(compile(source, "<test>", "exec"), namespace)
        # One check calls the function by its name, too.
        namespace[tests["entry_point"]] = candidate
        namespace["check"](candidate)

    return check


class _SeededRandom(random.Random):
    """Stands for the module `random` in a test, so that a verdict does not depend on luck."""

    Random = random.Random

    def __init__(self) -> None:
        super().__init__(0)


def _seeded_import(name: str, *rest: Any) -> "ModuleType | _SeededRandom":
    return _SeededRandom() if name == "random" else __import__(name, *rest)


PROGRAMS: dict[str, Callable[[str, str], ProgramTest]] = {"code": code_test, "humaneval": humaneval_test}
"""Domain -> test of a prompt's `answer` and a program; other domains have answers to compare."""
