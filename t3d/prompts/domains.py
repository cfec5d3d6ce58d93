"""The offline domains: where problems come from, and the many ways to write their answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from t3d.params import Difficulty
from t3d.prompts import code, gsm, humaneval

Problem = Any
"""A problem of one of the modules: all have `id`, `question`, `split` and `answer`, drawn ones `fits`."""


@dataclass(frozen=True)
class Domain:
    """What prompt sets and pretraining need of a domain."""

    problems: Callable[[str, int, Difficulty | None], Iterator[Problem]]
    """Distinct problems of a split, from a seed."""
    write: Callable[[Problem, Random], str]
    """One of a problem's gold answers, drawn at random."""
    draw: Callable[[int], Problem | None] | None = None
    """A problem from a seed; None where the draw is of no use. Domains without it cannot be pretrained on."""


DOMAINS = {
    "gsm": Domain(gsm.problems, gsm.paraphrase, gsm.draw_problem),
    "code": Domain(code.problems, code.write_solution, code.draw_problem),
    "humaneval": Domain(humaneval.problems, humaneval.write_solution),
}
