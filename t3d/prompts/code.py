"""The offline code benchmark: small Python functions that can be written in many idiomatic ways.

A problem chains one to three steps over a list of integers or a string (`the sum of the squares of the even numbers in
xs`), in the shape of MBPP: an instruction, and unit tests that the answer never sees. As with the word problems of
`gsm.py` answers have many modes (comprehension, loop, map and filter, the names of variables), since without them
few-step decoding would lose nothing.

What a program returns is decided by running it, in `t3d/sandbox/sandbox.py`.
"""

import ast
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

from t3d.params import Difficulty
from t3d.seeds import seed_for

_CASES = 8
_LONGEST = 8

Value = Any
"""A list of integers, a string or an integer."""


@dataclass(frozen=True)
class Step:
    """One step of a function, over a list `xs` or a string `s`.

    `words` describes its result, with `{}` for what it is applied to. `run` is what it computes. The other fields are
    how it can be written: `test` and `item` for one element, as an expression in `{x}`; `whole` on the entire value, as
    expressions in `{xs}`.
    """

    words: str
    run: Callable[[Value], Value]
    test: tuple[str, ...] = ()
    item: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodeProblem:
    """One function to write: `id` is a digest of `question`, `cases` are its hidden tests (argument, result)."""

    id: str
    question: str
    kind: str
    steps: tuple[Step, ...]
    cases: tuple[tuple[Value, Value], ...]

    @property
    def split(self) -> str:
        """The split this problem belongs to, by its text alone: 80 % train, 10 % validation, 10 % test."""
        bucket = int(self.id[:8], 16) % 10
        return {0: "test", 1: "validation"}.get(bucket, "train")

    @property
    def parameter(self) -> str:
        """Name of the function's parameter."""
        return "xs" if self.kind == "list" else "s"

    @property
    def answer(self) -> str:
        """The hidden tests as JSON: the name of the function and its (argument, result) pairs."""
        return json.dumps({"entry_point": "f", "cases": self.cases})

    def fits(self, difficulty: Difficulty) -> bool:
        """Whether the problem is no harder than `difficulty`: its limit on steps counts those of the function."""
        return difficulty.max_steps is None or len(self.steps) <= difficulty.max_steps


def problems(split: str, seed: int, difficulty: Difficulty | None = None) -> Iterator[CodeProblem]:
    """Yield distinct problems of `split`, no harder than `difficulty`, in an order fixed by `seed`.

    They are finite: the end is where 20 000 draws have brought nothing new.
    """
    seen: set[str] = set()
    last_new = 0
    for draw in count():
        problem = draw_problem(seed_for(seed, "code", draw))
        fits = difficulty is None or problem.fits(difficulty)
        if problem.split == split and fits and problem.id not in seen:
            seen.add(problem.id)
            last_new = draw
            yield problem
        if draw - last_new > 20_000:
            return


def draw_problem(seed: int) -> CodeProblem:
    """Draw one problem, its wording and its tests."""
    rng = Random(seed)
    kind = rng.choice(("list", "list", "string"))
    steps = _list_steps(rng) if kind == "list" else _string_steps(rng)
    name = "xs" if kind == "list" else "s"
    words = name
    for step in steps:
        words = step.words.format(words)
    question = f"Write a function f({name}) that returns {words}."
    digest = hashlib.sha256(question.encode()).hexdigest()[:16]
    # The tests follow from the question, so that equal questions have equal tests.
    cases = tuple((case, _apply(steps, case)) for case in _arguments(kind, Random(digest)))
    return CodeProblem(digest, question, kind, steps, cases)


def write_solution(problem: CodeProblem, rng: Random) -> str:
    """Write one of the many programs that solve `problem`, as a fenced block."""
    writers = [_write_as_expression, _write_step_by_step]
    if problem.kind == "list":
        writers.append(_write_as_loop)
    body = rng.choice(writers)(problem, rng)
    lines = [f"def f({problem.parameter}):", *("    " + line for line in body)]
    return "```python\n" + "\n".join(lines) + "\n```"


def _apply(steps: tuple[Step, ...], value: Value) -> Value:
    for step in steps:
        value = step.run(value)
    return value


def _arguments(kind: str, rng: Random) -> list[Value]:
    if kind == "list":
        fixed: list[Value] = [[], [0], [-3, 4, 7, 10, -8, 2]]
        return fixed + [[rng.randint(-20, 40) for _ in range(rng.randint(1, _LONGEST))] for _ in range(_CASES - 3)]
    letters = "abcdeinorst AEIOU"
    fixed = ["", "a", "Hello World"]
    return fixed + [
        "".join(rng.choice(letters) for _ in range(rng.randint(2, 2 * _LONGEST))) for _ in range(_CASES - 3)
    ]


# Steps over lists: perhaps keep some elements, perhaps change each, then perhaps pick, order or fold.


def _list_steps(rng: Random) -> tuple[Step, ...]:
    steps = []
    if rng.random() < 0.7:
        steps.append(_keep(rng))
    if not steps or rng.random() < 0.6:
        steps.append(_change(rng))
    if len(steps) < 2 or rng.random() < 0.6:
        steps.append(rng.choice((_fold, _fold, _pick))(rng))
    return tuple(steps)


def _keep(rng: Random) -> Step:
    k = rng.randint(2, 9)
    limit = rng.randint(-5, 20)
    choices = (
        ("the even numbers in {}", lambda x: x % 2 == 0, ("{x} % 2 == 0", "not {x} % 2")),
        ("the odd numbers in {}", lambda x: x % 2 == 1, ("{x} % 2 == 1", "{x} % 2 != 0", "{x} % 2")),
        ("the positive numbers in {}", lambda x: x > 0, ("{x} > 0", "0 < {x}")),
        ("the negative numbers in {}", lambda x: x < 0, ("{x} < 0", "0 > {x}")),
        (f"the numbers in {{}} greater than {limit}", lambda x: x > limit, (f"{{x}} > {limit}", f"{limit} < {{x}}")),
        (f"the numbers in {{}} less than {limit}", lambda x: x < limit, (f"{{x}} < {limit}", f"{limit} > {{x}}")),
        (f"the multiples of {k} in {{}}", lambda x: x % k == 0, (f"{{x}} % {k} == 0", f"not {{x}} % {k}")),
        (f"the numbers in {{}} other than {k}", lambda x: x != k, (f"{{x}} != {k}", f"not {{x}} == {k}")),
    )
    words, test, texts = rng.choice(choices)
    return Step(words, lambda xs: [x for x in xs if test(x)], test=texts)


def _change(rng: Random) -> Step:
    k = rng.randint(2, 12)
    choices = (
        ("the squares of {}", lambda x: x * x, ("{x} * {x}", "{x} ** 2")),
        ("the doubles of {}", lambda x: 2 * x, ("2 * {x}", "{x} * 2", "{x} + {x}")),
        ("the negatives of {}", lambda x: -x, ("-{x}", "0 - {x}")),
        ("the absolute values of {}", lambda x: abs(x), ("abs({x})", "max({x}, -{x})")),
        (f"{{}} with {k} added to each", lambda x: x + k, (f"{{x}} + {k}", f"{k} + {{x}}")),
        (f"{{}} with {k} subtracted from each", lambda x: x - k, (f"{{x}} - {k}", f"-{k} + {{x}}")),
        (f"{{}} with each multiplied by {k}", lambda x: x * k, (f"{{x}} * {k}", f"{k} * {{x}}")),
    )
    words, change, texts = rng.choice(choices)
    return Step(words, lambda xs: [change(x) for x in xs], item=texts)


def _fold(rng: Random) -> Step:
    choices = (
        ("the sum of {}", sum, ("sum({xs})",)),
        ("the number of {}", len, ("len({xs})",)),
        ("the largest of {}, or 0 if there is none", lambda xs: max(xs, default=0), ("max({xs}, default=0)",)),
        ("the smallest of {}, or 0 if there is none", lambda xs: min(xs, default=0), ("min({xs}, default=0)",)),
    )
    words, run, texts = rng.choice(choices)
    return Step(words, run, whole=texts)


def _pick(rng: Random) -> Step:
    k = rng.randint(2, 5)
    nth = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}[k]
    choices = (
        (f"the first {k} of {{}}", lambda xs: xs[:k], (f"{{xs}}[:{k}]", f"{{xs}}[0:{k}]")),
        (f"the last {k} of {{}}", lambda xs: xs[-k:], (f"{{xs}}[-{k}:]",)),
        (f"{{}} without the first {k}", lambda xs: xs[k:], (f"{{xs}}[{k}:]",)),
        (f"every {nth} of {{}}, beginning with the first", lambda xs: xs[::k], (f"{{xs}}[::{k}]", f"{{xs}}[0::{k}]")),
        ("{} in reverse order", lambda xs: xs[::-1], ("{xs}[::-1]", "list(reversed({xs}))")),
        ("{} in ascending order", sorted, ("sorted({xs})",)),
        ("{} in descending order", lambda xs: sorted(xs)[::-1], ("sorted({xs}, reverse=True)", "sorted({xs})[::-1]")),
    )
    words, run, texts = rng.choice(choices)
    return Step(words, run, whole=texts)


def _string_steps(rng: Random) -> tuple[Step, ...]:
    edits = [_edit(rng) for _ in range(rng.choice((1, 2, 2)))]
    if rng.random() < 0.4 or len(edits) < 2:
        edits.append(_measure(rng))
    return tuple(edits)


_JOIN = "''.join({xs}.split("


def _edit(rng: Random) -> Step:
    k = rng.randint(2, 5)
    a, b = rng.sample("abcdeinorst", 2)
    choices = (
        ("{} in upper case", str.upper, ("{xs}.upper()",)),
        ("{} in lower case", str.lower, ("{xs}.lower()",)),
        ("{} reversed", lambda s: s[::-1], ("{xs}[::-1]", "''.join(reversed({xs}))")),
        (f"{{}} with every '{a}' replaced by '{b}'", lambda s: s.replace(a, b), (f"{{xs}}.replace('{a}', '{b}')",)),
        (f"{{}} without every '{a}'", lambda s: s.replace(a, ""), (f"{{xs}}.replace('{a}', '')", f"{_JOIN}'{a}'))")),
        (f"the first {k} characters of {{}}", lambda s: s[:k], (f"{{xs}}[:{k}]", f"{{xs}}[0:{k}]")),
        (f"the last {k} characters of {{}}", lambda s: s[-k:], (f"{{xs}}[-{k}:]",)),
        (f"{{}} repeated {k} times", lambda s: s * k, (f"{{xs}} * {k}", f"{k} * {{xs}}")),
    )
    words, run, texts = rng.choice(choices)
    return Step(words, run, whole=texts)


def _measure(rng: Random) -> Step:
    a = rng.choice("abcdeinorst")
    is_a = f"c == '{a}'"
    choices = (
        ("the length of {}", len, ("len({xs})",)),
        (
            f"how often '{a}' occurs in {{}}",
            lambda s: s.count(a),
            (f"{{xs}}.count('{a}')", f"sum({is_a} for c in {{xs}})"),
        ),
        ("the words of {}", str.split, ("{xs}.split()",)),
        ("the number of words of {}", lambda s: len(s.split()), ("len({xs}.split())",)),
        (f"whether '{a}' occurs in {{}}", lambda s: a in s, (f"'{a}' in {{xs}}", f"{{xs}}.count('{a}') > 0")),
    )
    words, run, texts = rng.choice(choices)
    return Step(words, run, whole=texts)


# Ways to write a solution.


def _write_as_expression(problem: CodeProblem, rng: Random) -> list[str]:
    value = problem.parameter
    pending = list(problem.steps)
    while pending:
        value = _wrapped(_expression(pending, value, rng), pending)
    return [f"return {value}"]


def _write_step_by_step(problem: CodeProblem, rng: Random) -> list[str]:
    value = problem.parameter
    names = iter(rng.sample(("out", "result", "kept", "ys", "value", "res"), len(problem.steps)))
    lines: list[str] = []
    pending = list(problem.steps)
    while pending:
        expression = _expression(pending, value, rng)
        if not pending and rng.random() < 0.5:
            return [*lines, f"return {expression}"]
        value = next(names)
        lines.append(f"{value} = {expression}")
    return [*lines, f"return {value}"]


def _write_as_loop(problem: CodeProblem, rng: Random) -> list[str]:
    x, out = rng.choice(("x", "n", "v")), rng.choice(("out", "result", "ys"))
    pending = list(problem.steps)
    keep = pending.pop(0) if pending and pending[0].test else None
    change = pending.pop(0) if pending and pending[0].item else None
    item = rng.choice(change.item).format(x=x) if change else x
    lines = [f"{out} = []", f"for {x} in xs:"]
    if keep is not None:
        lines.append(f"    if {rng.choice(keep.test).format(x=x)}:")
    lines.append("    " * (1 + (keep is not None)) + rng.choice((f"{out}.append({item})", f"{out} += [{item}]")))
    value = out
    while pending:
        value = _expression(pending, value, rng)
    return [*lines, f"return {value}"]


def _expression(pending: list[Step], value: str, rng: Random) -> str:
    """Take the next step, or a keep and the change after it, off `pending`: one expression of `value`."""
    step = pending.pop(0)
    if step.whole:
        return rng.choice(step.whole).format(xs=value)
    x = rng.choice(("x", "n", "v"))
    keep = step if step.test else None
    change = step if step.item else None
    if keep is not None and pending and pending[0].item:
        change = pending.pop(0)
    test = rng.choice(keep.test).format(x=x) if keep else ""
    item = rng.choice(change.item).format(x=x) if change else x
    if rng.random() < 0.25 and not (keep and change):
        function, body = ("filter", test) if keep else ("map", item)
        return f"list({function}(lambda {x}: {body}, {value}))"
    return f"[{item} for {x} in {value}" + (f" if {test}]" if keep else "]")


def _wrapped(expression: str, pending: list[Step]) -> str:
    """Parentheses where a following method or slice would bind to a part of the expression only."""
    loose = isinstance(ast.parse(expression, mode="eval").body, ast.BinOp | ast.UnaryOp | ast.Compare)
    return f"({expression})" if pending and loose else expression
