r"""The process that compares answers; `boxed.py` starts it and asks it.

An alarm cannot end the one power that `9^{9^{9^{9}}}` asks for: Python handles signals only between two operations. So
each pair is compared (`comparison.py`) in a fork of this process, with limits on processor time and memory that the
kernel enforces. What sympy remembers from one pair is gone before the next, so that a verdict does not depend on the
questions before it.
"""

import json
import logging
import os
import resource
import signal
import sys
from contextlib import suppress

from t3d.evaluation.comparison import equal

LONGEST = 1000
"""Characters of an answer; longer ones are wrong without a comparison."""
_SECONDS = 10
_MEMORY_MB = 1024
"""Address space beyond what sympy and the parser take, 0.06 GB here."""

# What compares these is imported, and the grammar's tables are built, before the first fork: no fork has to.
_KINDS = (
    ("x^2+2x+1", "(x+1)^{2}"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 3\pi \end{pmatrix}"),
    (r"(-\infty,2) \cup (2,\infty)", r"\mathbb{R} \setminus \{2\}"),
    ("y = 2x+3", "2x-y+3 = 0"),
    (r"\cot x", r"\frac{\cos x}{\sin x}"),
)


def _equal_in_fork(gold: str, answer: str) -> tuple[bool, str]:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
            memory = _mapped() + _MEMORY_MB * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                verdict = equal(gold, answer)
            except Exception as error:
                verdict = False, f"it cannot be compared ({type(error).__name__})"
            os.write(send, json.dumps(verdict).encode())
        finally:
            # Without what the parent registered to run at its end.
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if said:
        passed, reason = json.loads(said)
        return passed, reason
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU):
        return False, f"comparing it takes more than {_SECONDS} s"
    return False, "comparing it takes too much memory"


def _mapped() -> int:
    """Address space of this process, bytes."""
    with open("/proc/self/statm") as statistics:
        return int(statistics.read().split()[0]) * resource.getpagesize()


def main() -> None:
    """Answer one pair per line of standard input, until it ends."""
    answers = os.dup(1)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    for pair in _KINDS:
        equal(*pair)
    if not _equal_in_fork("1", r"\frac{2}{2}")[0]:
        raise RuntimeError("no comparison works within these limits")
    # Whoever asked may have gone.
    with suppress(BrokenPipeError):
        for line in sys.stdin:
            os.write(answers, f"{json.dumps(_equal_in_fork(*json.loads(line)))}\n".encode())


if __name__ == "__main__":
    main()
