"""Are the published verdicts those of today's code? Judge the published answers again.

    t3d pull scores --experiment qwen-right
    python -m benchmarks.rejudge qwen-right          # --benchmark gsm --benchmark mbpp for some

The texts are those of results/EXPERIMENT/answers.tar.xz. `t3d score` judges by the same function; programs run in the
sandbox. Gold answers and tests come from the benchmarks' files, which belong where `local:` of each source says
(docs/reviewing.md); neither weights nor a tokenizer are needed. The exit status is 1 if a verdict differs. Programs run
in the Python that runs this, and some depend on its version: it is named beside verdicts that differ.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import sched_getaffinity
from platform import python_version

from t3d import params
from t3d.errors import DataError, MissingInputError, in_a_sentence, process_pool
from t3d.evaluation import scores
from t3d.evaluation.programs import PROGRAMS
from t3d.params import Experiment
from t3d.progress import Progress
from t3d.prompts import asked
from t3d.prompts.reader import Prompt
from t3d.provenance import store, texts
from t3d.provenance.parquet import verdicts_of

SHOWN = 10
"""Answers of a benchmark that are named; others are counted."""
_PART = 200
"""Answers that a process compares before it takes the next."""

Pair = tuple[str, str]
"""A question's id and a text: what a verdict depends on."""


@dataclass(frozen=True)
class Compared:
    """The verdicts on a benchmark's answers, beside the published ones; answers are named `RUN/BENCHMARK/BUDGET ID`."""

    judged: int
    now_right: list[str]
    now_wrong: list[str]
    pythons: set[str]
    """The versions of Python with which verdicts that differ were made, as far as they are others than this one."""

    @property
    def differ(self) -> int:
        """How many verdicts are others than the published ones."""
        return len(self.now_right) + len(self.now_wrong)


def compare(experiment: Experiment, benchmark: str, answers: dict[str, dict[str, str]]) -> Compared:
    """Judge a benchmark's published answers, and compare with the published verdicts.

    Args:
        experiment: whose benchmark it is.
        benchmark: its key.
        answers: question's id -> `RUN/BUDGET` -> text.

    Raises:
        MissingInputError: the questions, or the published verdicts, are not here.
        DataError: a question is none of the benchmark's, or a verdict is on no published answer.
    """
    published = dict(_published(experiment, benchmark, answers))
    questions = asked.find(experiment, experiment.benchmarks[benchmark].prompts)
    if unknown := [key for key in answers if key not in questions]:
        raise DataError(
            f"{texts.path_of(experiment)}, {benchmark}: {len(unknown)} questions are none of prompt set "
            f"{experiment.benchmarks[benchmark].prompts} (e.g. {unknown[0]})."
        )
    verdicts = judge(experiment, benchmark, questions, answers)
    now: dict[bool, list[str]] = {True: [], False: []}
    pythons = set()
    for (key, question), before in published.items():
        right = verdicts[question, answers[question][key]]
        if right != before:
            cell = _cell(benchmark, key)
            now[right].append(f"{cell} {question}")
            pythons.add((store.find_receipt(experiment, f"scores/{cell}") or {}).get("python", ""))
    return Compared(len(published), now[True], now[False], pythons - {"", python_version()})


def _cell(benchmark: str, key: str) -> str:
    run, _, budget = key.partition("/")
    return f"{run}/{benchmark}/{budget}"


def _published(
    experiment: Experiment, benchmark: str, answers: dict[str, dict[str, str]]
) -> Iterator[tuple[tuple[str, str], bool]]:
    """The published verdict on each answer, by `RUN/BUDGET` and question."""
    for key in dict.fromkeys(key for of_question in answers.values() for key in of_question):
        path = store.manifest_path(experiment, f"scores/{_cell(benchmark, key)}")
        if not path.is_file():
            raise MissingInputError(
                f"{path} is missing: get the published verdicts first ({store.pulling(experiment.name)})."
            )
        verdicts = verdicts_of(store.read(path))
        there = {question for question, of_question in answers.items() if key in of_question}
        if other := there ^ verdicts.keys():
            raise DataError(
                f"{path} and {texts.path_of(experiment)} have other questions: {len(other)} are in one alone "
                f"(e.g. {min(other)})."
            )
        for question, right in verdicts.items():
            yield (key, question), right


def judge(
    experiment: Experiment, benchmark: str, questions: dict[str, Prompt], answers: dict[str, dict[str, str]]
) -> dict[Pair, bool]:
    """Whether each text answers its question; texts that several models wrote are judged once."""
    spec = experiment.benchmarks[benchmark]
    pairs = list(dict.fromkeys((question, text) for question, found in answers.items() for text in found.values()))
    if experiment.prompt_sets[spec.prompts].domain in PROGRAMS:
        return _judge(spec.task, pairs, questions, f"{experiment.name}, {benchmark}", spec.sandbox)
    progress = Progress(f"{experiment.name}, {benchmark}", len(pairs))
    parts = [pairs[start : start + _PART] for start in range(0, len(pairs), _PART)]
    verdicts: dict[Pair, bool] = {}
    # Each process has a process of its own that compares.
    with process_pool(len(sched_getaffinity(0))) as pool:
        jobs = [pool.submit(_judge, spec.task, p, {q: questions[q] for q, _ in p}, "", spec.sandbox) for p in parts]
        for job, part in zip(jobs, parts, strict=True):
            verdicts |= job.result()
            progress.advance(len(part))
    return verdicts


def _judge(task: str, pairs: list[Pair], questions: dict[str, Prompt], title: str, sandbox: str) -> dict[Pair, bool]:
    """A question that several texts answer is asked several times, under ids of its own."""
    prompts = [replace(questions[question], id=str(number)) for number, (question, _) in enumerate(pairs)]
    found = scores.judge(task, prompts, {str(n): text for n, (_, text) in enumerate(pairs)}, title, sandbox)
    return {pair: found[str(number)]["correct"] for number, pair in enumerate(pairs)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge, print a row per benchmark and the answers whose verdict differs; 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="its name, qwen-right")
    parser.add_argument("--benchmark", action="append", help="key of a benchmark; all that were published by default")
    given = parser.parse_args(arguments)
    # Of escapes such as "\\d", which the models' strings have.
    warnings.simplefilter("ignore", SyntaxWarning)
    experiment = params.find(given.experiment)
    published = texts.read(experiment)
    chosen = given.benchmark or list(published)
    if missing := [name for name in chosen if name not in published]:
        path = texts.path_of(experiment)
        raise DataError(f"{path} has no benchmark {missing[0]!r}: {', '.join(published)}.")
    total = 0
    for name in chosen:
        started = time.monotonic()
        found = compare(experiment, name, published[name])
        if name == chosen[0]:
            print(f"{'benchmark':<16}{'judged':>8}{'same':>8}{'now right':>11}{'now wrong':>11}{'seconds':>9}")
        right, wrong = len(found.now_right), len(found.now_wrong)
        row = f"{name:<16}{found.judged:>8}{found.judged - found.differ:>8}{right:>11}{wrong:>11}"
        print(f"{row}{time.monotonic() - started:>9.0f}", flush=True)
        for said, keys in (("now right", found.now_right), ("now wrong", found.now_wrong)):
            for key in keys[:SHOWN]:
                print(f"  {said}: {key}")
            if len(keys) > SHOWN:
                print(f"  {said}: {len(keys) - SHOWN} more")
        if found.pythons and experiment.prompt_sets[experiment.benchmarks[name].prompts].domain in PROGRAMS:
            made = " and ".join(sorted(found.pythons))
            print(f"  published with Python {made}; programs run in {python_version()} here, which may be why")
        total += found.differ
    print({0: "No verdict differs.", 1: "1 verdict differs."}.get(total, f"{total} verdicts differ."))
    return 1 if total else 0


if __name__ == "__main__":
    with in_a_sentence():
        sys.exit(main())
