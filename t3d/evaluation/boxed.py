r"""Answers in `\boxed{}`: the one of a response, and whether it equals the gold one as mathematics.

What is equal is decided by `comparison.py`, in the process of `equality.py`; docs/benchmarks.md lists what counts.
`harness.py` makes this lm-eval's filter `last_box` and metric `math_equality`.
"""

import json
import os
import re
import subprocess
import sys
from functools import lru_cache

from t3d.errors import MissingInputError
from t3d.evaluation import equality, latex

_OPENING = re.compile(r"\\boxed\s*\{")
# Braces that group; those that are printed, `\{`, are skipped with every other escaped character.
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# Written in one way only: such numbers are equal if their texts are, and no process need compare them (20 ms each).
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")


def last_box(text: str) -> str:
    r"""Content of the last `\boxed{...}` of a text; empty if there is no box, or if the last one never closes.

    If a token limit cut the last box, an earlier one does not count: the last box was to replace it.
    """
    start = max((match.end() for match in _OPENING.finditer(text)), default=-1)
    if start < 0:
        return ""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return latex.trim(text[start : match.start()])
    return ""


def compare(gold: str, answer: str) -> tuple[bool, str]:
    """Whether an answer equals the gold one, and in a few words why.

    Whatever the answer, this returns: what takes too long or too much memory is wrong.

    Raises:
        MissingInputError: the process that compares does not run.
    """
    if not answer:
        return False, "no closed box with an answer in it"
    if len(answer) > equality.LONGEST:
        return False, f"an answer of more than {equality.LONGEST} characters"
    if _WHOLE.fullmatch(gold) and _WHOLE.fullmatch(answer):
        return gold == answer, "equal" if gold == answer else "not equal"
    process = _process()
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps([gold, answer]) + "\n")
        process.stdin.flush()
        equal, reason = json.loads(process.stdout.readline())
    except (BrokenPipeError, ValueError) as error:
        _process.cache_clear()
        process.kill()
        process.wait()
        raise MissingInputError("the process that compares answers ended; is math-verify installed?") from error
    return equal, reason


@lru_cache(maxsize=1)
def _process() -> subprocess.Popen:
    """The process of `equality.py`, started at its first use; it ends with this one."""
    return subprocess.Popen(
        # -P: its folder holds modules that must not stand for others.
        [sys.executable, "-P", equality.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C at the terminal is for this process, whose end it sees.
        start_new_session=True,
        # sympy walks through sets of symbols, whose order would change from run to run.
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
