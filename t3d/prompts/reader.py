"""Read a prompt set. This module imports no generator and no tokenizer."""

import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from t3d.errors import AGAIN, CorruptArtefactError, DataError, ParameterError, reading
from t3d.params import Experiment
from t3d.params.data import Domain
from t3d.params.experiment import PROGRAM_DOMAINS
from t3d.params.json_files import exactly, read_lines
from t3d.provenance import store

_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_SECONDS = 5
"""CPU time in which a chat template renders a question: it may be a program that never ends."""


@exactly
@dataclass(frozen=True)
class Prompt:
    """One question with its ids and its gold answer."""

    id: str
    domain: Domain
    split: str
    text: str
    prompt_ids: Annotated[list[_TokenId], Field(min_length=1)]
    reference: str
    reference_ids: list[_TokenId]
    answer: str

    @property
    def expected(self) -> str:
        """What a right answer holds; of a program, whose hidden tests are too long to show, the reference."""
        if self.domain not in PROGRAM_DOMAINS:
            return self.answer
        return re.sub(r"^```\w*\n|\n```$", "", self.reference.strip())


def encode_prompt(tokenizer, text: str, **switches: bool) -> list[int]:
    """Ids of one user turn in the chat template, up to where the answer begins; a template ignores what it lacks.

    Raises:
        ParameterError: the template fails, does not end, or leaves the text out.
    """
    messages = [{"role": "user", "content": text}]
    of = f"{tokenizer.name_or_path}/chat_template.jinja"
    with reading(of, "Correct the template.", ParameterError, "does not render a question"), _limited():
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **switches)
        if text.strip() not in rendered:
            raise ValueError("what it renders does not hold the question")
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


@contextmanager
def _limited() -> Iterator[None]:
    """End what runs after `_SECONDS` of CPU time, by a TimeoutError; threads but the first have no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise TimeoutError(f"it does not end within {_SECONDS} seconds")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def read_prompts(manifest: store.Manifest, vocabulary: int = 2**31) -> list[Prompt]:
    """Read a prompt set.

    Args:
        manifest: of the prompt set.
        vocabulary: token numbers are below, those of prompts and of gold answers.

    Raises:
        CorruptArtefactError: a line is not a prompt, or of the id of another; the message names file and line.
    """
    path = manifest.file(".jsonl")
    prompts = list(read_lines(path, Prompt))
    seen: set[str] = set()
    for number, prompt in enumerate(prompts, start=1):
        if prompt.id in seen:
            raise CorruptArtefactError(f"{path}, line {number}: id {prompt.id!r} stands on another line too. {AGAIN}")
        seen.add(prompt.id)
        if (largest := max(*prompt.prompt_ids, *prompt.reference_ids, 0)) >= vocabulary:
            raise CorruptArtefactError(
                f"{path}, line {number}: token {largest}, but the model's vocabulary has {vocabulary}. {AGAIN}"
            )
    return prompts


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
