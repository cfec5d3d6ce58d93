"""The offline domains, each a generator of problems and of the many ways to write their answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from t3d.params import Difficulty
from t3d.prompts import code, gsm

Problem = Any
"""`gsm.Problem` or `code.CodeProblem`: both have `id`, `question`, `split`, `answer` and `fits(difficulty)`."""


@dataclass(frozen=True)
class Domain:
    """What prompt sets and pretraining need of a domain."""

    draw: Callable[[int], Problem | None]
    """A problem from a seed; None where the draw is of no use."""
    problems: Callable[[str, int, Difficulty | None], Iterator[Problem]]
    """Distinct problems of a split, from a seed."""
    write: Callable[[Problem, Random], str]
    """One of a problem's gold answers, drawn at random."""


DOMAINS = {
    "gsm": Domain(gsm.draw_problem, gsm.problems, gsm.paraphrase),
    "code": Domain(code.draw_problem, code.problems, code.write_solution),
}
