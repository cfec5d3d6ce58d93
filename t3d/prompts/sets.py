"""Prompt sets: questions of a domain, tokenised once. Ids, never text, travel between the stages after this one.

A prompt has: `id`, `domain`, `split`, `text` (the question), `prompt_ids` (after chat template and suffix), `reference`
(a gold worked answer), `reference_ids` (its ids up to and including the end-of-turn token), `answer` (the final
answer).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

from t3d import receipts
from t3d.errors import CorruptArtefactError, ParameterError
from t3d.params import Experiment
from t3d.prompts.domains import DOMAINS
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


def make(experiment: Experiment, name: str, teacher: Path, out: Path) -> None:
    """Draw prompt set `name` and tokenise it with the teacher's tokenizer.

    Args:
        experiment: whose `prompt_sets` has `name`.
        name: key of the prompt set.
        teacher: the teacher's manifest.
        out: manifest to write; `<name>.jsonl` lies beside it.
    """
    # Imported here: who only reads a prompt set needs no model, and starts four seconds sooner without one.
    from t3d.models.sdar import load_tokenizer

    if name not in experiment.prompt_sets:
        raise ParameterError(f"experiment {experiment.name} has no prompt set {name!r}.")
    spec = experiment.prompt_sets[name]
    source = receipts.read(teacher, kind="teachers")
    tokenizer = load_tokenizer(source.folder())
    domain = DOMAINS[spec.domain]
    problems = list(
        islice(domain.problems(spec.split, seed_for(experiment.seed, "prompts"), spec.difficulty), spec.count)
    )
    if len(problems) < spec.count:
        raise ParameterError(
            f"prompt_sets.{name}.count: domain {spec.domain} has only {len(problems)} fitting problems of split "
            f"{spec.split}, {spec.count} are asked for."
        )
    with receipts.making(experiment, f"prompts/{name}", out, inputs=[source]) as job:
        with job.file(".jsonl").open("w") as file:
            for problem in problems:
                reference = domain.write(problem, Random(seed_for(experiment.seed, "reference", problem.id)))
                prompt = Prompt(
                    id=problem.id,
                    domain=spec.domain,
                    split=spec.split,
                    text=problem.question,
                    prompt_ids=encode_prompt(tokenizer, problem.question + spec.suffix),
                    reference=reference,
                    reference_ids=tokenizer(reference + tokenizer.eos_token, add_special_tokens=False)["input_ids"],
                    answer=problem.answer,
                )
                file.write(json.dumps(asdict(prompt), ensure_ascii=False) + "\n")
        job.facts["prompts"] = spec.count


def encode_prompt(tokenizer, text: str) -> list[int]:
    """Ids of one user turn in the chat template, up to where the answer begins."""
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def read(manifest: receipts.Manifest) -> list[Prompt]:
    """Read a prompt set.

    Raises:
        CorruptArtefactError: a line is not a prompt; the message names file and line.
    """
    path = manifest.file(".jsonl")
    return list(_lines(path))


def _lines(path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            yield Prompt(**json.loads(line))
        except (json.JSONDecodeError, TypeError) as error:
            raise CorruptArtefactError(f"{path}, line {number}: not a prompt ({error}).") from error
