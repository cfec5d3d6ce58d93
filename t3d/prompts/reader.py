"""Read a prompt set. This module imports no generator and no tokenizer."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from t3d.errors import CorruptArtefactError, DataError
from t3d.params import Experiment
from t3d.provenance import store


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


def encode_prompt(tokenizer, text: str, **switches: bool) -> list[int]:
    """Ids of one user turn in the chat template, up to where the answer begins; a template ignores what it lacks."""
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switches)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def read_prompts(manifest: store.Manifest) -> list[Prompt]:
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


def check_prompt_sets(experiment: Experiment) -> None:
    """Check the prompt sets of an experiment that are here; raises as `check_disjoint`."""
    paths = [store.manifest_path(experiment, f"prompts/{name}") for name in experiment.prompt_sets]
    check_disjoint(read_prompts(store.read(path)) for path in paths if path.is_file())


def check_disjoint(prompt_sets: Iterable[Iterable[Prompt]]) -> None:
    """Check that nothing that is learned from is asked: train shares neither id nor text with the other splits.

    Raises:
        DataError: a question is in both; the message names it.
    """
    seen: dict[str, Prompt] = {}
    for prompt in (prompt for prompts in prompt_sets for prompt in prompts):
        # White space and case are no difference between two questions.
        for key in (prompt.id, " ".join(prompt.text.lower().split())):
            other = seen.setdefault(key, prompt)
            if (other.split == "train") != (prompt.split == "train"):
                raise DataError(
                    f"{other.id} of split {other.split} and {prompt.id} of split {prompt.split} ask the same: "
                    f"{prompt.text[:80]!r}. Leave it out of what is learned from."
                )
