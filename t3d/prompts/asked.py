"""The questions of a prompt set as text, with their gold answers: neither a tokenizer nor a model is needed.

`sets.py` draws from the same files and generators, and tokenises what it draws.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError, short
from t3d.params import Experiment, PromptSet
from t3d.prompts.local import COPY_OR_PIN, place_of
from t3d.prompts.reader import Prompt, read_prompts
from t3d.provenance import store
from t3d.seeds import seed_for

Problem = Any
"""A problem of a domain or a row of a file: it has `id`, `question` and `answer`."""


def find(experiment: Experiment, name: str) -> dict[str, Prompt]:
    """The questions of a prompt set by id: as they were asked if the set is here, otherwise without token ids.

    Of a set that is not here there are all questions that it is drawn from.

    Args:
        experiment: whose `prompt_sets` has `name`.
        name: key of the prompt set, of a benchmark.

    Raises:
        MissingInputError: neither the set nor its file is here; the message says where the file belongs.
        CorruptArtefactError: the file is not the pinned one.
        DataError, ParameterError: the file is not what the prompt set says, or only the tokenizer knows which
            questions it has.
    """
    spec = experiment.prompt_sets[name]
    if (made := store.find(store.manifest_path(experiment, f"prompts/{name}"))) is not None:
        return {prompt.id: prompt for prompt in read_prompts(made)}
    if spec.source is not None:
        prefix = prefix_of(spec)
        return _prompts(
            spec, ((f"{prefix}/{p.id}", p, p.solution) for p in in_file(experiment, name, _file(experiment, name))[0])
        )
    if spec.max_prompt_tokens is not None:
        raise DataError(
            f"prompt_sets.{name}: only a tokenizer knows which of its questions fit. Make them first "
            f"({store.making(store.manifest_path(experiment, f'prompts/{name}'))})."
        )
    from t3d.prompts.domains import DOMAINS

    drawn = (
        (p.id, p, DOMAINS[spec.domain].write(p, reference_draw(experiment, p))) for p in generated(experiment, name)
    )
    return _prompts(spec, islice(drawn, spec.count))


def find_or_why(experiment: Experiment, name: str) -> tuple[dict[str, Prompt], str]:
    """The same, or no questions and why they are not here; damaged files raise as in `find`."""
    try:
        return find(experiment, name), ""
    except (MissingInputError, DataError) as error:
        return {}, str(error)


def places(experiment: Experiment, name: str) -> list[Path]:
    """Files whose content `find` depends on, whether they are here or not: manifests, and a source's local files."""
    key = experiment.prompt_sets[name].source
    made = [store.manifest_path(experiment, f"prompts/{name}")]
    if key is None:
        return made
    source = experiment.sources[key]
    own = [Path(source.local).expanduser() / file for file in source.files] if source.local else []
    return [*made, store.manifest_path(experiment, f"sources/{key}"), *own]


def _prompts(spec: PromptSet, found: Iterable[tuple[str, Problem, str]]) -> dict[str, Prompt]:
    return {
        key: Prompt(key, spec.domain, spec.split, problem.question, [], reference, [], problem.answer)
        for key, problem, reference in found
    }


def generated(experiment: Experiment, name: str) -> Iterator[Problem]:
    """The problems of a prompt set's generator, in its order; it may never end."""
    from t3d.prompts.domains import DOMAINS

    spec = experiment.prompt_sets[name]
    return DOMAINS[spec.domain].problems(spec.split, seed_for(experiment.seed, "prompts"), spec.difficulty)


def reference_draw(experiment: Experiment, problem: Problem) -> Random:
    """Draws one of a problem's gold answers."""
    return Random(seed_for(experiment.seed, "reference", problem.id))


def prefix_of(spec: PromptSet) -> str:
    """What ids of a file's rows begin with: two files of a source may give their rows the same numbers."""
    return f"{spec.source}/{Path(spec.file).stem}" if spec.file else str(spec.source)


def file_of(experiment: Experiment, name: str, there: Iterable[str]) -> str:
    """Which of a source's files holds a prompt set's questions; raises ParameterError unless it is one."""
    from t3d.prompts import files

    spec = experiment.prompt_sets[name]
    held = [file for file in there if file.endswith(files.ENDINGS)]
    wanted = [spec.file] if spec.file else held
    if len(wanted) != 1 or wanted[0] not in held:
        raise ParameterError(
            f"params/{experiment.name}.yaml, prompt_sets.{name}.file: which file of sources.{spec.source}? It has: "
            f"{', '.join(held) or 'none'}."
        )
    return wanted[0]


def in_file(experiment: Experiment, name: str, path: Path) -> tuple[list[Problem], int]:
    """All questions that a file has for a prompt set, and how many rows belong to other splits.

    Raises:
        DataError: there is no row, a row is not what the prompt set says, two rows have one id, or a question that is
            not learned from has two answers; the message names the user's file where the source is one.
        CorruptArtefactError: the file cannot be read.
    """
    from t3d.prompts import files, mbpp, questions

    spec = experiment.prompt_sets[name]
    found: list[Problem]
    with _in_the_users_words(experiment, name, path) as do:
        rows = files.read(path, do or files.COPY)
        if not rows:
            raise DataError(f"{path} holds no question.")
        if spec.domain == "mbpp":
            found = list(mbpp.problems(path, rows, spec.split))
        else:
            assert spec.columns is not None
            first, end = spec.rows or (0, len(rows))
            found = list(questions.problems(path, rows, spec.columns))[first:end]
            # Of what is learned from, `sets.py` says it: right and wrong answers are worth a warning there.
            if spec.split != "train" and (fault := contradiction(experiment, name, path, found)):
                raise DataError(fault)
        twice = [key for key, times in Counter(problem.id for problem in found).items() if times > 1]
        if twice:
            raise DataError(f"{path}: {len(twice)} ids stand in two rows (e.g. {twice[0]!r}).")
    return found, len(rows) - len(found)


def contradiction(experiment: Experiment, name: str, path: Path, found: Iterable[Problem]) -> str:
    """Says which question of a file has two final answers; empty if none has.

    Args:
        experiment: whose `prompt_sets` has `name`.
        name: key of the prompt set.
        path: of the file.
        found: the questions that it has for the prompt set, in its order.
    """
    from t3d.prompts import files

    seen: dict[str, tuple[int, str]] = {}
    for number, problem in enumerate(found, start=(experiment.prompt_sets[name].rows or (0,))[0]):
        before, answer = seen.setdefault(problem.question.strip(), (number, problem.answer.strip()))
        if problem.answer.strip() != answer:
            other = str(files.Place(path, before)).removeprefix(f"{path}, ")
            return (
                f"{files.Place(path, number)}: it asks the question of {other}, and has another answer "
                f"({short(repr(problem.answer))}, not {short(repr(answer))}). Leave one of them out."
            )
    return ""


@contextmanager
def _in_the_users_words(experiment: Experiment, name: str, path: Path) -> Iterator[str]:
    """Errors name the prompt set, and of a source with `local` the user's own file, not the copy of it at `path`.

    Yields:
        What to do about a fault of the user's own file; empty where there is none.
    """
    key = experiment.prompt_sets[name].source
    assert key is not None
    local, do, shown = experiment.sources[key].local, "", str(path)
    if local is not None:
        shown = str(Path(local) / file_of(experiment, name, experiment.sources[key].files))
        do = f"Correct the file, then write its new sha256 (sha256sum {shown}) to sources.{key}.files."
    try:
        yield do
    except (DataError, CorruptArtefactError, ParameterError) as error:
        said = str(error).replace(str(path), shown)
        where = f"params/{experiment.name}.yaml, prompt_sets.{name}"
        where += ".columns" if isinstance(error, DataError) and experiment.prompt_sets[name].columns else ""
        raise type(error)(f"{where}: {said}{'' if do in said else f' {do}'}") from error


def _file(experiment: Experiment, name: str) -> Path:
    """The pinned file with a prompt set's questions: as it was fetched, or in the source's `local` folder."""
    key = experiment.prompt_sets[name].source
    assert key is not None
    source, manifest = experiment.sources[key], store.manifest_path(experiment, f"sources/{key}")
    file = file_of(experiment, name, source.files)
    if (fetched := store.find(manifest)) is not None:
        return fetched.folder() / file
    where = place_of(experiment, key)
    if source.local is None:
        raise MissingInputError(
            f"{file} of {source.repository} is not here: fetch it ({store.making(manifest)}), or name a folder that "
            f"holds it ({where}.local)."
        )
    path = Path(source.local).expanduser() / file
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: put {file} there, or correct the folder ({where}.local).")
    if (found := store.sha256(path)) != source.files[file]:
        raise CorruptArtefactError(
            f"{path}: sha256 is {found}, {where}.files asks for {source.files[file]}. {COPY_OR_PIN}"
        )
    return path
