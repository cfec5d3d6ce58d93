"""Tasks that an autoregressive teacher writes itself: it continues a user turn of its chat template that begins with an
opening.

    prompt_sets.openings (domain openings) -> generations -> prompt_sets.tasks (domain written) -> generations

Complete tasks are kept, each once, unless they share `NGRAM` words in a row with a question of one of the experiment's
benchmarks.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from t3d.errors import ParameterError
from t3d.prompts.questions import Question

NGRAM = 8
"""Words in a row that a task may not share with a benchmark's question; opening and instruction do not count."""
_FEWEST_WORDS = 4
"""The fewest words that a task has after its opening."""
_MARK = "\u2063opening\u2063"
"""Stands for the question, to find where the chat template has to be cut; no template contains it."""


def opening_ids(tokenizer, opening: str) -> list[int]:
    """Ids of the chat template up to its user turn, and of the opening, which the turn begins with.

    Raises:
        ParameterError: the template does not repeat the question as it is.
    """
    messages = [{"role": "user", "content": _MARK}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, mark, _ = rendered.partition(_MARK)
    if not mark:
        raise ParameterError("the chat template does not hold the question as it is; no task can be written with it.")
    return tokenizer(before + opening, add_special_tokens=False)["input_ids"]


def opening_of(openings: Sequence[str], number: int) -> str:
    """The opening of turn `number`: turns use the openings in rotation."""
    return openings[number % len(openings)]


def tasks(
    written: Iterable[tuple[str, str]], benchmarks: Iterable[str], pattern: str | None = None
) -> tuple[list[Question], dict[str, int]]:
    """Distinct tasks that are near no benchmark's question.

    Args:
        written: openings, and what the model wrote after each.
        benchmarks: the questions of the experiment's benchmarks.
        pattern: regular expression whose group is the task, at the start of what was written; all of it without one.

    Returns:
        The tasks in the order they were written in, and how many were left out: those without the pattern
        (`unmatched`), `short` ones, `repeated` ones, and those that a benchmark holds (`known`).
    """
    known = {gram for question in benchmarks for gram in ngrams(_words(question))}
    found: dict[str, Question] = {}
    left_out = {"unmatched": 0, "short": 0, "repeated": 0, "known": 0}
    for opening, text in written:
        if pattern is not None:
            match = re.match(pattern, text, re.DOTALL)
            if match is None:
                left_out["unmatched"] += 1
                continue
            text = match.group(1)
        words = _words(text)
        key = hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]
        if len(words) < _FEWEST_WORDS:
            left_out["short"] += 1
        elif key in found:
            left_out["repeated"] += 1
        elif any(gram in known for gram in ngrams(words)):
            left_out["known"] += 1
        else:
            found[key] = Question(id=key, question=(opening + text).strip(), answer="", solution="")
    return list(found.values()), left_out


def ngrams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Runs of `NGRAM` words."""
    return (tuple(words[start : start + NGRAM]) for start in range(len(words) - NGRAM + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
