"""Prompt sets: questions of a domain, tokenised once. Ids, never text, travel between the stages after this one.

A prompt has: `id`, `domain`, `split`, `text` (the question), `prompt_ids` (after chat template and suffix), `reference`
(a gold worked answer), `reference_ids` (its ids up to and including the end-of-turn token), `answer` (the final
answer).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from random import Random

from t3d.errors import DataError, ParameterError
from t3d.params import Experiment, PromptSet
from t3d.prompts import asked, written
from t3d.prompts.domains import DOMAINS, Problem
from t3d.prompts.questions import Question
from t3d.prompts.reader import Prompt, encode_prompt, read_prompts
from t3d.provenance import store, writer
from t3d.seeds import seed_for

_EXAMPLES = 2
"""Questions placed before an opening, so that the written task resembles them."""
_TRIES = 100
"""How many problems of a generator may be too long, for each one that fits."""


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
    inputs = store.read_inputs(experiment, f"prompts/{name}", [teacher, *origins])
    folder = inputs[0].folder()
    # Imported here: without it, reading a prompt set or reporting an error starts three seconds sooner.
    from t3d.models import autoregressive
    from t3d.models.folder import load_tokenizer

    causal = experiment.teachers[spec.teacher].autoregressive
    tokenizer = (autoregressive.load_tokenizer if causal else load_tokenizer)(folder)
    # Qwen3's chat models would think aloud first, which the diffusion LMs made of them do not.
    switches = {"enable_thinking": False} if causal else {}

    def encode(question: str) -> list[int]:
        if spec.openings is not None:
            return written.opening_ids(tokenizer, question)
        return encode_prompt(tokenizer, question + spec.suffix, **switches)

    with writer.writing(experiment, f"prompts/{name}", out, inputs=inputs) as job:
        if spec.openings is not None:
            kept, left_out = _those_that_fit(_opened(experiment, spec, inputs[1:]), spec, encode)
        elif spec.generations is not None:
            kept, left_out = _written(experiment, name, tokenizer, inputs[1:], encode)
        elif spec.source is not None:
            kept, left_out = _of_file(experiment, name, inputs[1], encode)
        else:
            kept, left_out = _generated(experiment, name, encode)
        left_out = {why: number for why, number in left_out.items() if number}
        told = ", ".join(f"{number} {why}" for why, number in left_out.items())
        if not kept:
            limits = [field for field in ("max_prompt_tokens", "rows", "split") if getattr(spec, field) is not None]
            raise DataError(
                f"params/{experiment.name}.yaml, prompt_sets.{name}: no prompt is left. Left out: {told or 'none'}. "
                f"Change {' or '.join(limits)} there, or the questions."
            )
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
        if left_out:
            job.facts["left_out"] = left_out
            print(f"prompt_sets.{name}: {len(prompts)} prompts; left out: {told}", flush=True)


_Encode = Callable[[str], list[int]]
"""A question -> the ids of its prompt."""
_Kept = tuple[Problem, list[int], str]
"""A problem, the ids of its prompt, and a worked answer."""


def _fitting(
    problems: Iterable[Problem], spec: PromptSet, encode: _Encode
) -> Iterator[tuple[Problem, list[int] | None]]:
    """Each problem with the ids of its prompt; None where they are more than `max_prompt_tokens`."""
    for problem in problems:
        ids = encode(problem.question)
        yield problem, None if spec.max_prompt_tokens is not None and len(ids) > spec.max_prompt_tokens else ids


def _those_that_fit(
    problems: Sequence[Problem], spec: PromptSet, encode: _Encode
) -> tuple[list[_Kept], dict[str, int]]:
    """The problems that are not too long, with their own worked answers; and how many are too long."""
    kept = [(p, ids, p.solution) for p, ids in _fitting(problems, spec, encode) if ids is not None]
    return kept, _too_long(spec, len(problems) - len(kept))


def _too_long(spec: PromptSet, number: int) -> dict[str, int]:
    return {f"longer than {spec.max_prompt_tokens} tokens": number}


def _generated(experiment: Experiment, name: str, encode: _Encode) -> tuple[list[_Kept], dict[str, int]]:
    """The first `count` problems of a generator that fit, each with one of its gold answers; how many were left out."""
    spec = experiment.prompt_sets[name]
    assert spec.count is not None
    kept: list[_Kept] = []
    too_long = 0
    for problem, ids in _fitting(asked.generated(experiment, name), spec, encode):
        if ids is None:
            too_long += 1
        else:
            reference = DOMAINS[spec.domain].write(problem, asked.reference_draw(experiment, problem))
            kept.append((problem, ids, reference))
        # A generator may never end; this loop does, even where hardly any problem fits.
        if len(kept) == spec.count or too_long > _TRIES * spec.count:
            break
    if len(kept) < spec.count:
        raise ParameterError(
            f"prompt_sets.{name}.count: domain {spec.domain} has only {len(kept)} fitting problems of split "
            f"{spec.split} ({too_long} are too long), {spec.count} are asked for."
        )
    return kept, _too_long(spec, too_long)


def _of_file(
    experiment: Experiment, name: str, source: store.Manifest, encode: _Encode
) -> tuple[list[_Kept], dict[str, int]]:
    """Questions of a fetched file with their worked answers: of those that fit at most `count`, drawn by the seed."""
    spec = experiment.prompt_sets[name]
    found, others = _in_file(experiment, name, source)
    # Elsewhere an error; a few wrong answers among many are no reason not to train.
    if spec.columns is not None and (
        fault := asked.contradiction(experiment, name, _path_in(experiment, name, source), found)
    ):
        print(f"prompt_sets.{name}: {fault}", flush=True)
    kept, left_out = _those_that_fit(found, spec, encode)
    if spec.count is not None and spec.count < len(kept):
        drawn = Random(seed_for(experiment.seed, "prompts")).sample(range(len(kept)), spec.count)
        kept = [kept[index] for index in sorted(drawn)]
    prefix = asked.prefix_of(spec)
    kept = [(replace(problem, id=f"{prefix}/{problem.id}"), ids, solution) for problem, ids, solution in kept]
    return kept, left_out | {"of other splits": others}


def _in_file(experiment: Experiment, name: str, source: store.Manifest) -> tuple[list[Problem], int]:
    return asked.in_file(experiment, name, _path_in(experiment, name, source))


def _path_in(experiment: Experiment, name: str, source: store.Manifest) -> Path:
    """The file of a fetched source that holds a prompt set's questions."""
    return source.folder() / asked.file_of(experiment, name, [name.partition("/")[2] for name in source.files])


def _opened(experiment: Experiment, spec: PromptSet, inputs: list[store.Manifest]) -> list[Problem]:
    """Beginnings of turns; if the prompt set has `examples`, other questions stand before them."""
    assert spec.openings is not None
    of_set = isinstance(spec.examples, str)
    questions = [prompt.text for prompt in read_prompts(inputs[0])] if of_set else [*(spec.examples or ())]
    turns: list[Problem] = []
    for number in range(spec.count or len(spec.openings)):
        draws = Random(seed_for(experiment.seed, "examples", number))
        shown = draws.sample(questions, min(_EXAMPLES, len(questions)))
        turns.append(Question(str(number), "\n\n".join([*shown, written.opening_of(spec.openings, number)]), "", ""))
    return turns


def _written(
    experiment: Experiment, name: str, tokenizer, inputs: list[store.Manifest], encode: _Encode
) -> tuple[list[_Kept], dict[str, int]]:
    """Tasks that the teacher wrote, and how many were left out."""
    from t3d.prompts import generated

    spec = experiment.prompt_sets[name]
    assert spec.generations is not None
    openings = experiment.prompt_sets[experiment.generations[spec.generations].prompts].openings
    assert openings is not None
    shards = [manifest for manifest in inputs if manifest.artefact.startswith("generations/")]
    rows = [row for shard in shards for row in generated.read(shard.file(".parquet"))]
    # With a pattern, the task can be complete although the text after it was cut.
    rows = rows if spec.task_pattern else generated.complete(rows)
    rows = sorted(rows, key=lambda row: (int(row.prompt_id), row.sample))
    texts = [
        (
            written.opening_of(openings, int(row.prompt_id)),
            tokenizer.decode(row.response_ids, skip_special_tokens=True),
        )
        for row in rows
    ]
    sources = {manifest.artefact.partition("/")[2]: manifest for manifest in inputs}
    known: list[Problem] = []
    for key in dict.fromkeys(benchmark.prompts for benchmark in experiment.benchmarks.values()):
        questions = experiment.prompt_sets[key]
        if questions.source:
            known += _in_file(experiment, key, sources[questions.source])[0]
        else:
            known += islice(asked.generated(experiment, key), questions.count)
    tasks, left_out = written.tasks(texts, [problem.question for problem in known], spec.task_pattern)
    kept, too_long = _those_that_fit(tasks, spec, encode)
    first, end = spec.rows or (0, None)
    return kept[first:end][: spec.count], left_out | too_long
