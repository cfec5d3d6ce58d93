"""Prompt sets: questions of a domain, tokenised once. Ids, never text, travel between the stages after this one.

A prompt has: `id`, `domain`, `split`, `text` (the question), `prompt_ids` (after chat template and suffix), `reference`
(a gold worked answer), `reference_ids` (its ids up to and including the end-of-turn token), `answer` (the final
answer).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random

from t3d import lineage, receipts
from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.params import Experiment
from t3d.prompts import written
from t3d.prompts.domains import DOMAINS, Problem
from t3d.prompts.questions import Question
from t3d.seeds import seed_for


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


def make(experiment: Experiment, name: str, teacher: Path, out: Path, *origins: Path) -> None:
    """Draw prompt set `name` and tokenise it with the teacher's tokenizer.

    Args:
        experiment: whose `prompt_sets` has `name`.
        name: key of the prompt set.
        teacher: the teacher's manifest.
        out: manifest to write; `<name>.jsonl` lies beside it.
        origins: manifest of the fetched files, for a domain whose questions come from a file; of written tasks those of
            the generations, and of the files that hold the benchmarks' questions.

    Raises:
        ParameterError: there is no such prompt set, or there are too few problems.
        DataError: a row of the file is not what the prompt set says, or two rows have one id.
    """
    if name not in experiment.prompt_sets:
        raise ParameterError(f"experiment {experiment.name} has no prompt set {name!r}.")
    spec = experiment.prompt_sets[name]
    inputs = [receipts.read(teacher, kind="teachers")]
    folder = inputs[0].folder()
    # Imported here: who only reads a prompt set, or is told that something is wrong, starts three seconds sooner.
    from t3d.models import autoregressive
    from t3d.models.folder import load_tokenizer

    causal = experiment.teachers[spec.teacher].autoregressive
    tokenizer = (autoregressive.load_tokenizer if causal else load_tokenizer)(folder)
    # Qwen3's chat models would think aloud first, which the diffusion LMs made of them do not.
    switches = {"enable_thinking": False} if causal else {}
    inputs += [receipts.read(origin) for origin in origins]
    found, expected = [manifest.artefact for manifest in inputs], lineage.inputs_of(experiment, f"prompts/{name}")
    if found != expected:
        raise ParameterError(f"prompt_sets.{name} is made from {', '.join(expected)}; found {', '.join(found)}.")
    with receipts.making(experiment, f"prompts/{name}", out, inputs=inputs) as job:
        drawn: list[tuple[Problem, str]]
        if spec.openings is not None:
            drawn = [(Question(str(number), text, "", ""), "") for number, text in enumerate(spec.openings)]
        elif spec.generations is not None:
            drawn, job.facts["left_out"] = _written(experiment, name, tokenizer, inputs[1:])
        elif spec.source is not None:
            drawn = _of_file(experiment, name, inputs[1])
        else:
            drawn = _generated(experiment, name)
        prompts = []
        for problem, reference in drawn:
            if spec.openings is not None:
                prompt_ids = written.opening_ids(tokenizer, problem.question)
            else:
                prompt_ids = encode_prompt(tokenizer, problem.question + spec.suffix, **switches)
            if spec.max_prompt_tokens is not None and len(prompt_ids) > spec.max_prompt_tokens:
                continue
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
        if not prompts:
            longest = spec.max_prompt_tokens
            raise DataError(f"prompt_sets.{name}: no prompt is left of {len(drawn)} at most {longest} long.")
        lines = (json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
        job.file(".jsonl").write_text("".join(lines), encoding="utf-8")
        job.facts["prompts"] = len(prompts)


def _generated(experiment: Experiment, name: str) -> list[tuple[Problem, str]]:
    """Problems of a domain with a generator, each with one of its gold answers."""
    spec = experiment.prompt_sets[name]
    assert spec.count is not None
    domain = DOMAINS[spec.domain]
    seed = seed_for(experiment.seed, "prompts")
    problems = list(islice(domain.problems(spec.split, seed, spec.difficulty), spec.count))
    if len(problems) < spec.count:
        raise ParameterError(
            f"prompt_sets.{name}.count: domain {spec.domain} has only {len(problems)} fitting problems of split "
            f"{spec.split}, {spec.count} are asked for."
        )
    return [(p, domain.write(p, Random(seed_for(experiment.seed, "reference", p.id)))) for p in problems]


def _of_file(experiment: Experiment, name: str, source: receipts.Manifest) -> list[tuple[Problem, str]]:
    """Questions of a fetched file, at most `count` of them, with their worked answers."""
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
        found = list(mbpp.problems(path, rows))
    else:
        assert spec.columns is not None
        found = list(questions.problems(path, rows, spec.columns))
    twice = [key for key, times in Counter(problem.id for problem in found).items() if times > 1]
    if twice:
        raise DataError(f"{path}: {len(twice)} ids stand in two rows, {twice[0]!r} for one.")
    if spec.count is not None and spec.count < len(found):
        kept = Random(seed_for(experiment.seed, "prompts")).sample(range(len(found)), spec.count)
        found = [found[index] for index in sorted(kept)]
    # Two files of a source may count their rows alike.
    prefix = f"{spec.source}/{Path(spec.file).stem}" if spec.file else spec.source
    return [(replace(problem, id=f"{prefix}/{problem.id}"), problem.solution) for problem in found]


def _written(
    experiment: Experiment, name: str, tokenizer, inputs: list[receipts.Manifest]
) -> tuple[list[tuple[Problem, str]], dict[str, int]]:
    """Tasks that the teacher wrote, and how many were left out."""
    from t3d.trajectories import generations

    spec = experiment.prompt_sets[name]
    assert spec.generations is not None
    openings = experiment.prompt_sets[experiment.generations[spec.generations].prompts].openings or ()
    shards = [manifest for manifest in inputs if manifest.artefact.startswith("generations/")]
    rows = [row for shard in shards for row in generations.read(shard.file(".parquet"))]
    # Of what has a pattern, the task can be whole where the solution after it is not.
    rows = rows if spec.task_pattern else generations.complete(rows)
    rows = sorted(rows, key=lambda row: (int(row.prompt_id), row.sample))
    texts = [
        (openings[int(row.prompt_id)], tokenizer.decode(row.response_ids, skip_special_tokens=True)) for row in rows
    ]
    sources = {manifest.artefact.partition("/")[2]: manifest for manifest in inputs}
    asked = dict.fromkeys(benchmark.prompts for benchmark in experiment.benchmarks.values())
    questions = []
    for key in asked:
        source = experiment.prompt_sets[key].source
        drawn = _of_file(experiment, key, sources[source]) if source else _generated(experiment, key)
        questions += [problem.question for problem, _ in drawn]
    found, left_out = written.tasks(texts, questions, spec.task_pattern)
    if spec.count is not None:
        found = found[: spec.count]
    return [(task, "") for task in found], left_out


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
