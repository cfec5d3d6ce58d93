r"""The process that compares answers with math-verify; `boxed.py` starts it and asks it.

math-verify limits time by an alarm, which Python hears between two of its operations: it cannot end the one power that
`9^{9^{9^{9}}}` asks for, and how far it gets depends on how busy the machine is. So each pair is compared in a fork of
this process, with limits on processor time and memory that the kernel keeps. What math-verify remembers from one pair
is gone before the next, so that a verdict does not depend on the questions before it.
"""

import json
import logging
import os
import re
import resource
import signal
import sys
from typing import Any

LONGEST = 1000
"""Characters of an answer; longer ones are wrong without a comparison."""
_SECONDS = 10
_MEMORY_MB = 1024
"""Address space beyond what math-verify and its imports take, 0.06 GB here."""
# A unit at the end of a number, or the end of a sentence inside the box.
_END = re.compile(r"(?:\\?%|[\s.])+\Z")


def equal(gold: str, answer: str) -> tuple[bool, str]:
    """Whether two answers in LaTeX are equal, and in a few words why; the first one is the gold one.

    The order counts: `x = 5` is answered by `5`, and a set only by a set.
    """
    from math_verify import verify

    found = _parse(answer)
    if not found:
        return False, "the answer cannot be read"
    # Both limits on time are the kernel's; see above.
    passed = verify(_parse(gold), found, timeout_seconds=None)
    return passed, "equal" if passed else "not equal"


def _parse(answer: str) -> list[Any]:
    """What math-verify makes of an answer: an expression if it can be read as one, and its normalised text."""
    from math_verify import LatexExtractionConfig, parse

    boxed = f"\\boxed{{{_END.sub('', answer)}}}"
    # No extraction of plain expressions: of LaTeX that cannot be read it would take the last number.
    return parse(boxed, [LatexExtractionConfig(boxed_match_priority=0)], parsing_timeout=None)


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
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    # This imports the grammar, so that no fork has to.
    equal("1", "1")
    if not _equal_in_fork("1", r"\frac{2}{2}")[0]:
        raise RuntimeError("no comparison works within these limits")
    for line in sys.stdin:
        print(json.dumps(_equal_in_fork(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
