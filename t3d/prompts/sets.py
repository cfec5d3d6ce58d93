"""Prompt sets: questions of a domain, tokenised once. Ids, never text, travel between the stages after this one.

A prompt has: `id`, `domain`, `split`, `text` (the question), `prompt_ids` (after chat template and suffix), `reference`
(a gold worked answer), `reference_ids` (its ids up to and including the end-of-turn token), `answer` (the final
answer).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from t3d import receipts
from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.params import Experiment, PromptSet
from t3d.prompts.domains import DOMAINS, Problem
from t3d.seeds import seed_for

_TRIES = 100
"""Problems of a generator that may be too long for each that fits."""


@dataclass(frozen=True)
class Prompt:
    """One question with its ids and its gold answer."""

    id: str
    domain: str
    split: str
    text: str
    prompt_ids: list[int]
    reference: str
    reference_ids: list[int]
    answer: str


def make(experiment: Experiment, name: str, teacher: Path, out: Path, source: Path | None = None) -> None:
    """Draw prompt set `name` and tokenise it with the teacher's tokenizer.

    Args:
        experiment: whose `prompt_sets` has `name`.
        name: key of the prompt set.
        teacher: the teacher's manifest.
        out: manifest to write; `<name>.jsonl` lies beside it.
        source: manifest of the fetched files, for a domain whose questions come from a file.

    Raises:
        ParameterError: there is no such prompt set, or there are too few problems.
        DataError: a row of the file is not what the prompt set says, or two rows have one id.
    """
    if name not in experiment.prompt_sets:
        raise ParameterError(f"experiment {experiment.name} has no prompt set {name!r}.")
    spec = experiment.prompt_sets[name]
    inputs = receipts.read_inputs(experiment, f"prompts/{name}", [teacher, source])
    folder = inputs[0].folder()
    # Imported here: who only reads a prompt set, or is told that something is wrong, starts three seconds sooner.
    from t3d.models.folder import load_tokenizer

    tokenizer = load_tokenizer(folder)
    manifest = None if spec.source is None else inputs[1]
    with receipts.making(experiment, f"prompts/{name}", out, inputs=inputs) as job:
        if manifest is None:
            kept, too_long = _generated(experiment, name, tokenizer)
            others = 0
        else:
            kept, too_long, others = _of_file(experiment, name, manifest, tokenizer)
        if not kept:
            longest = spec.max_prompt_tokens
            raise DataError(f"prompt_sets.{name}: no prompt is left; {too_long} are longer than {longest} tokens.")
        prompts = []
        for problem, prompt_ids, reference in kept:
            reference_ids = tokenizer(reference + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
            prompts.append(
                Prompt(
                    id=problem.id,
                    domain=spec.domain,
                    split=spec.split,
                    text=problem.question,
                    prompt_ids=prompt_ids,
                    reference=reference,
                    reference_ids=reference_ids,
                    answer=problem.answer,
                )
            )
        lines = (json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
        job.file(".jsonl").write_text("".join(lines), encoding="utf-8")
        job.facts["prompts"] = len(prompts)
        left_out = {f"longer than {spec.max_prompt_tokens} tokens": too_long, "of other splits": others}
        if left_out := {why: number for why, number in left_out.items() if number}:
            job.facts["left_out"] = left_out
            told = ", ".join(f"{number} {why}" for why, number in left_out.items())
            print(f"prompt_sets.{name}: {len(prompts)} prompts; left out: {told}", flush=True)


_Kept = tuple[Problem, list[int], str]
"""A problem, the ids of its prompt, and a worked answer."""


def _fitting(problems: Iterable[Problem], spec: PromptSet, tokenizer) -> Iterator[tuple[Problem, list[int] | None]]:
    """Each problem with the ids of its prompt; None where they are more than `max_prompt_tokens`."""
    for problem in problems:
        ids = encode_prompt(tokenizer, problem.question + spec.suffix)
        yield problem, None if spec.max_prompt_tokens is not None and len(ids) > spec.max_prompt_tokens else ids


def _generated(experiment: Experiment, name: str, tokenizer) -> tuple[list[_Kept], int]:
    """The first `count` problems of a generator that fit, each with one of its gold answers; how many were too long."""
    spec = experiment.prompt_sets[name]
    assert spec.count is not None
    domain = DOMAINS[spec.domain]
    kept: list[_Kept] = []
    too_long = 0
    problems = domain.problems(spec.split, seed_for(experiment.seed, "prompts"), spec.difficulty)
    for problem, ids in _fitting(problems, spec, tokenizer):
        if ids is None:
            too_long += 1
        else:
            reference = domain.write(problem, Random(seed_for(experiment.seed, "reference", problem.id)))
            kept.append((problem, ids, reference))
        # A generator need not end; where hardly any problem fits, this does.
        if len(kept) == spec.count or too_long > _TRIES * spec.count:
            break
    if len(kept) < spec.count:
        raise ParameterError(
            f"prompt_sets.{name}.count: domain {spec.domain} has only {len(kept)} fitting problems of split "
            f"{spec.split} ({too_long} are too long), {spec.count} are asked for."
        )
    return kept, too_long


def _of_file(experiment: Experiment, name: str, source: receipts.Manifest, tokenizer) -> tuple[list[_Kept], int, int]:
    """Questions of a fetched file with their worked answers: of those that fit at most `count`, drawn by the seed.

    Returns:
        They, how many were too long, and how many belong to other splits.
    """
    from t3d.prompts import files, mbpp, questions

    spec = experiment.prompt_sets[name]
    folder = source.folder()
    there = [file for file in source.files if file.endswith(files.ENDINGS)]
    wanted = [f"{folder.name}/{spec.file}"] if spec.file else there
    if len(wanted) != 1 or wanted[0] not in there:
        listed = ", ".join(file.partition("/")[2] for file in there) or "none"
        raise ParameterError(f"prompt_sets.{name}.file: which file of sources.{spec.source}? It has: {listed}.")
    path = source.path.parent / wanted[0]
    rows = files.read(path)
    if spec.domain == "mbpp":
        found = list(mbpp.problems(path, rows, spec.split))
    else:
        assert spec.columns is not None
        found = list(questions.problems(path, rows, spec.columns))
    twice = [key for key, times in Counter(problem.id for problem in found).items() if times > 1]
    if twice:
        raise DataError(f"{path}: {len(twice)} ids stand in two rows (e.g. {twice[0]!r}).")
    fitting = [(problem, ids) for problem, ids in _fitting(found, spec, tokenizer) if ids is not None]
    too_long, others = len(found) - len(fitting), len(rows) - len(found)
    if spec.count is not None and spec.count < len(fitting):
        drawn = Random(seed_for(experiment.seed, "prompts")).sample(range(len(fitting)), spec.count)
        fitting = [fitting[index] for index in sorted(drawn)]
    # Two files of a source may count their rows alike.
    prefix = f"{spec.source}/{Path(spec.file).stem}" if spec.file else spec.source
    kept = [(replace(problem, id=f"{prefix}/{problem.id}"), ids, problem.solution) for problem, ids in fitting]
    return kept, too_long, others


def encode_prompt(tokenizer, text: str, **switches: bool) -> list[int]:
    """Ids of one user turn in the chat template, up to where the answer begins; a template ignores what it lacks."""
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switches)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def read(manifest: receipts.Manifest) -> list[Prompt]:
    """Read a prompt set.

    Raises:
        CorruptArtefactError: a line is not a prompt; the message names file and line.
    """
    path = manifest.file(".jsonl")
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Prompt]:
    # Not splitlines: a question may hold one of Unicode's other line ends.
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            yield Prompt(**json.loads(line))
        except (json.JSONDecodeError, TypeError) as error:
            raise CorruptArtefactError(f"{path}, line {number}: not a prompt ({error}).") from error
