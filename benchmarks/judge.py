"""How fast are programs judged? A sandbox for each of them, and sandboxes that are kept.

    python -m benchmarks.judge --out judge.json

Gold answers to problems of `t3d/prompts/code.py` run against their hidden tests; all pass, or there is no measurement.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from random import Random

from benchmarks.json_file import json_file
from t3d.errors import in_a_sentence
from t3d.evaluation.extraction import program_in
from t3d.evaluation.programs import ProgramTest
from t3d.prompts import code
from t3d.sandbox.sandbox import Sandbox, Verdict, check_cases


def gold_tests(count: int) -> list[ProgramTest]:
    """Right programs of different problems, with their tests."""
    rng = Random(0)
    problems = islice(code.problems("train", 0), count)
    return [
        ProgramTest(program_in(code.write_solution(problem, rng), "f"), "f", check_cases(list(problem.cases)))
        for problem in problems
    ]


def measure(judge: Callable[[ProgramTest], Verdict], tests: Sequence[ProgramTest], threads: int) -> float:
    """Programs per second, after one in each thread that is not counted.

    Raises:
        RuntimeError: a program did not pass.
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(judge, tests[:threads]))
        started = time.perf_counter()
        verdicts = list(pool.map(judge, tests))
        seconds = time.perf_counter() - started
    failed = [verdict.reason for verdict in verdicts if not verdict.passed]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(tests)} right programs did not pass: {failed[0]}")
    return len(tests) / seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programs", type=int, default=400, help="how many are judged in each way")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, cores], help="programs at a time")
    parser.add_argument("--kind", choices=("bubblewrap", "process"), default="bubblewrap", help="sandbox")
    parser.add_argument("--out", type=json_file, help="JSON file to write")
    given = parser.parse_args(arguments)
    tests = gold_tests(given.programs)

    def alone(test: ProgramTest) -> Verdict:
        with Sandbox(given.kind) as box:
            return box.judge(test.source, test.entry_point, test.check)

    print(f"{cores} cores, Python {platform.python_version()}")
    print(f"{'threads':>7}{'one each, programs/s':>22}{'kept, programs/s':>18}{'ratio':>8}")
    rows = []
    for threads in sorted(set(given.threads)):
        each = measure(alone, tests, threads)
        with Sandbox(given.kind) as box:
            kept = measure(lambda test: box.judge(test.source, test.entry_point, test.check), tests, threads)
        rows.append({"threads": threads, "each": each, "kept": kept, "ratio": kept / each})
        print(f"{threads:7}{each:22.1f}{kept:18.1f}{kept / each:7.1f}x", flush=True)
    if given.out:
        content = {"cores": cores, "python": platform.python_version(), "kind": given.kind, "rows": rows}
        given.out.write_text(json.dumps({**content, "programs": given.programs}, indent=1) + "\n")


if __name__ == "__main__":
    with in_a_sentence():
        main()
