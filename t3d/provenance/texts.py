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
from t3d.params import Budget, Experiment
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

    Raises:
        MissingInputError: there is no archive.
        CorruptArtefactError: it is damaged, or has a benchmark, model or budget that the experiment has not.
    """
    path = path_of(experiment)
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: experiment {experiment.name} published no texts of answers.")
    found: Texts = {}

    def take(name: str, file: IO[bytes], size: int) -> None:
        match = re.fullmatch(r"answers/([a-z0-9][a-z0-9._-]*)\.jsonl", name)
        if match is None or match[1] not in experiment.benchmarks:
            known = ", ".join(experiment.benchmarks)
            raise _damaged(
                path, f"{short(repr(name))} is no answers/BENCHMARK.jsonl of experiment {experiment.name} ({known})"
            )
        content = file.read(size)
        if len(content) < size:
            raise EOFError("it ends too early")
        found[match[1]] = _questions(experiment, path, name, content)

    archive.walk(path, take, lambda why: _damaged(path, why), _MAX_BYTES)
    return found


def _questions(experiment: Experiment, path: Path, name: str, content: bytes) -> dict[str, dict[str, str]]:
    questions: dict[str, dict[str, str]] = {}
    known: set[str] = set()
    for number, text in enumerate(content.splitlines(), start=1):
        line = parse_json(text, _Line, f"{path}, {name}, line {number}", _restore(path))
        if line.id in questions:
            raise _damaged(path, f"{name}, line {number}: question {short(repr(line.id))} stands on another line too")
        for key in line.answers.keys() - known:
            if not _is_known(experiment, key):
                raise _damaged(
                    path,
                    f"{name}, line {number}: {short(repr(key))} is no model and budget of experiment {experiment.name}",
                )
            known.add(key)
        questions[line.id] = line.answers
    return questions


def _is_known(experiment: Experiment, key: str) -> bool:
    """Whether a key is a model on disk of an experiment and a budget; it becomes a path of a score."""
    run, _, budget = key.partition("/")
    if run not in experiment.teachers and run not in lineage.runs(experiment):
        return False
    try:
        return str(Budget.parse(budget)) == budget
    except ValueError:
        return False


def _damaged(path: Path, why: str) -> CorruptArtefactError:
    return CorruptArtefactError(f"{path} is not as it was published: {why}. {_restore(path)}")


def _restore(path: Path) -> str:
    return f"Restore it (git checkout {path})."
