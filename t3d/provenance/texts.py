"""`results/<experiment>/answers.tar.xz`: the texts of an experiment's answers, where its weights are not published.

A member `answers/<benchmark>.jsonl` has a line of JSON per question: {"id": .., "answers": {"RUN/BUDGET": text, ..}}.
When each token was committed is not in it. Archives come from other people: one is read in memory, and nothing is
unpacked to a disk.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from t3d.errors import CorruptArtefactError, MissingInputError, short
from t3d.params import NAME, Budget, Experiment
from t3d.params.json_files import exactly, parse_json
from t3d.provenance import archive, lineage

Texts = dict[str, dict[str, dict[str, str]]]
"""Benchmark -> question's id -> `RUN/BUDGET`, a model on disk and how it decoded -> text."""
_MAX_BYTES = 2**28
"""Of all members; those of the largest archive, of 99,292 answers, are 86 MB."""


@exactly
@dataclass(frozen=True)
class _Line:
    id: str
    answers: dict[str, str]


def path_of(experiment: Experiment) -> Path:
    """Where the archive lies, if the experiment published one."""
    return Path("results", experiment.name, "answers.tar.xz")


def read(experiment: Experiment) -> Texts:
    """The texts that an experiment published; half a second for 90,000.

    Benchmarks and models that its parameters do not have, or no longer, are left out.

    Raises:
        MissingInputError: there is no archive, or it has no answer of the experiment's models.
        CorruptArtefactError: it is damaged.
    """
    path = path_of(experiment)
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: experiment {experiment.name} published no texts of answers.")
    found: Texts = {}

    def take(name: str, file: IO[bytes], size: int) -> None:
        match = re.fullmatch(rf"answers/({NAME})\.jsonl", name)
        if match is None:
            raise _damaged(path, f"{short(repr(name))} is no answers/BENCHMARK.jsonl")
        content = file.read(size)
        if len(content) < size:
            raise EOFError("it ends too early")
        questions = _questions(experiment, path, name, content)
        if questions and match[1] in experiment.benchmarks:
            found[match[1]] = questions

    archive.walk(path, take, lambda why: _damaged(path, why), _MAX_BYTES)
    if not found:
        raise MissingInputError(
            f"{path} has no answer of a model to a benchmark that params/{experiment.name}.yaml has."
        )
    return found


def _questions(experiment: Experiment, path: Path, name: str, content: bytes) -> dict[str, dict[str, str]]:
    """The answers of the experiment's models, by question; questions without any are left out."""
    questions: dict[str, dict[str, str]] = {}
    models = {*experiment.teachers, *lineage.runs(experiment)}
    known: dict[str, bool] = {}
    for number, text in enumerate(content.splitlines(), start=1):
        line = parse_json(text, _Line, f"{path}, {name}, line {number}", _restore(path))
        if line.id in questions:
            raise _damaged(path, f"{name}, line {number}: question {short(repr(line.id))} stands on another line too")
        for key in line.answers:
            if key not in known:
                if (run := _run_of(key)) is None:
                    raise _damaged(path, f"{name}, line {number}: {short(repr(key))} is no model and budget")
                known[key] = run in models
        questions[line.id] = {key: said for key, said in line.answers.items() if known[key]}
    return {key: answers for key, answers in questions.items() if answers}


def _run_of(key: str) -> str | None:
    """The model of a key `RUN/BUDGET`, which becomes a path of a score; None if it is no such key."""
    run, _, budget = key.partition("/")
    try:
        return run if re.fullmatch(NAME, run) and str(Budget.parse(budget)) == budget else None
    except ValueError:
        return None


def _damaged(path: Path, why: str) -> CorruptArtefactError:
    return CorruptArtefactError(f"{path} is not as it was published: {why}. {_restore(path)}")


def _restore(path: Path) -> str:
    return f"Restore it (git checkout {path})."
