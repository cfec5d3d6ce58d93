"""The offline math benchmark: word problems with worked answers that can be phrased in many ways.

reasoning-gym's `gsm_symbolic` writes a problem and a worked answer from one of 85 templates. Three things are added
here:

* every equation of a worked answer is checked and a problem with a false or degenerate one (`48=48`) is dropped;
* a problem's split follows from a hash of its text, so train, validation and test can never share a problem;
* worked answers are paraphrased at random (openers, ways to write an operator, closing lines). Without the many ways of
  saying a thing the tokens of a step barely depend on each other, and few-step decoding loses nothing worth distilling.

`t3d/prompts/sets.py` turns problems into the prompt sets of an experiment.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import count, pairwise
from random import Random

from t3d.params import Difficulty
from t3d.seeds import seed_for

SPLITS = ("train", "validation", "test")

_NUMBER = r"[€$£]?\d[\d,]*(?:\.\d+)?%?"
_TOKEN = re.compile(rf"{_NUMBER}|(?:(?<=\d)/)?[A-Za-z][A-Za-z'/-]*|[*×÷+/()-]")
_OPERATORS = {"*": "*", "x": "*", "×": "*", "/": "/", "÷": "/", "+": "+", "-": "-"}
_MAX_UNIT_WORDS = 4

_WAYS = {
    "=": (" = ", " equals ", " is ", " gives "),
    "+": (" + ", " plus "),
    "-": (" - ", " minus "),
    "*": (" * ", " x ", " times "),
    "/": (" / ", " divided by "),
}
_SPACED_OPERATOR = re.compile(r"(?<=[\w%)]) ?(?: ([*×÷+/-]|x) | ?([*×÷+-]) ?)(?=[€$£(]?\d)")
_OPENERS = ("", "So ", "Then ", "Next, ", "Thus ", "Therefore, ", "We see that ")
_OLD_OPENER = re.compile(
    r"^(?:So,?|Then|Thus,?|Therefore,?|Hence,?|Next,?|Now,?|Finally,?|This means|That means|So far,|First)\s+",
    re.IGNORECASE,
)
_LOWER_AFTER_OPENER = re.compile(
    r"the|there|he|she|they|it|in|on|after|while|when|if|each|a|an|to|for|of|since|we|out|all|from|together|with",
    re.IGNORECASE,
)
_CLOSINGS = (
    "The answer is \\boxed{%s}.",
    "So the answer is \\boxed{%s}.",
    "Answer: \\boxed{%s}",
    "We find \\boxed{%s}.",
    "Hence \\boxed{%s}.",
)
_SEPARATORS = (".\n", ". ")


@dataclass(frozen=True)
class Problem:
    """One word problem: `id` is a digest of `question`, `steps` are the checked sentences of the worked answer."""

    id: str
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def split(self) -> str:
        """The split this problem belongs to, by its text alone: 90 % train, 5 % validation, 5 % test."""
        return _split_of(self.id)

    def fits(self, difficulty: Difficulty) -> bool:
        """Whether the problem is no harder than `difficulty`."""
        if difficulty.max_steps is not None and len(self.steps) > difficulty.max_steps:
            return False
        if difficulty.max_number is None:
            return True
        numbers = [_value(n.rstrip("%")) for n in re.findall(_NUMBER, " ".join((self.question, *self.steps)))]
        return all(n.denominator == 1 and n <= difficulty.max_number for n in numbers)


def _split_of(digest: str) -> str:
    return {0: "test", 1: "validation"}.get(int(digest[:8], 16) % 20, "train")


_BARREN = 20_000


def problems(split: str, seed: int, difficulty: Difficulty | None = None) -> Iterator[Problem]:
    """Yield distinct problems of `split`, no harder than `difficulty`, in an order fixed by `seed`.

    It ends after `_BARREN` draws without a new one: no template is that easy, or all there are were drawn.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
    seen: set[str] = set()
    last_new = 0
    for draw in count():
        if draw - last_new > _BARREN:
            return
        problem = draw_problem(seed_for(seed, "gsm", draw), split)
        if problem is None or problem.id in seen:
            continue
        if difficulty is None or problem.fits(difficulty):
            seen.add(problem.id)
            last_new = draw
            yield problem


def draw_problem(seed: int, split: str | None = None) -> Problem | None:
    """Draw one problem; None where its worked answer holds an equation that is false or cannot be checked.

    None also for a problem of another split than `split`, whose worked answer is not looked at.
    """
    generators, tasks = _gsm_symbolic()
    rng = Random(seed)
    example = generators[rng.choice(tasks)](rng, 1.0)
    question = _tidy(example["question"]).strip()
    digest = hashlib.sha256(question.encode()).hexdigest()[:16]
    if split not in (None, _split_of(digest)):
        return None
    answer = _tidy(str(example["answer"])).replace(",", "")
    steps = _sentences(_tidy(example["metadata"]["answer_cot"]))
    if not steps or not re.fullmatch(r"-?\d+(\.\d{1,4})?", answer):
        return None
    if any(len(number) > 9 for number in re.findall(r"\d+", question)):
        return None  # 28.833333333333336 hours: an artefact of floating point, not a word problem
    if not all(equations_hold(step) for step in steps):
        return None
    numbers = re.findall(_NUMBER, steps[-1])
    if not numbers or _value(answer) not in {_value(n) for n in numbers} | {_value(n.rstrip("%")) for n in numbers}:
        return None
    return Problem(digest, question, steps, answer)


def paraphrase(problem: Problem, rng: Random) -> str:
    """Write the worked answer of `problem` in one of its many phrasings, ending in `\\boxed{answer}`."""
    parts = []
    for step in problem.steps:
        step = _reword_operators(_OLD_OPENER.sub("", step), rng)
        opener = rng.choice(_OPENERS)
        first, _, rest = step.partition(" ")
        if opener and _LOWER_AFTER_OPENER.fullmatch(first):
            first = first.lower()
        elif not opener:
            first = first[:1].upper() + first[1:]
        parts.append(opener + first + (" " + rest if rest else "") + rng.choice(_SEPARATORS))
    return "".join(parts) + rng.choice(_CLOSINGS) % problem.answer


def equations_hold(sentence: str) -> bool:
    """Whether every `left = right` of `sentence` can be evaluated and is true.

    The left side is the longest run of numbers, operators and units that ends at the `=`; a side that is a name or a
    letter (`T = 20`, `Jennifer = 442 points`) claims nothing that can be checked and passes.
    """
    sides = sentence.split("=")
    for left, right in pairwise(sides):
        stated = _leading_value(right)
        claimed = _trailing_expression(left)
        if claimed is None:
            continue
        if stated is None or len(claimed) < 3:
            return False
        value = _evaluate(claimed)
        if value is None or abs(value - stated) > Fraction(1, 10**6):
            return False
    return True


@lru_cache(maxsize=1)
def _gsm_symbolic():
    # Imported here: reasoning-gym loads a hundred task families, which takes two seconds.
    from reasoning_gym.arithmetic.gsm_symbolic import gsm_symbolic as source

    dataset = source.GSMSymbolicDataset(source.GSMSymbolicDatasetConfig(seed=0, size=1))
    return dataset.generators, tuple(source.tasks_ok)


def _tidy(text: str) -> str:
    text = re.sub(r"(?<![\d.])(\d[\d,]*)\.0(?!\d)", r"\1", text)
    return re.sub(r"[ \t]+", " ", text)


def _sentences(solution: str) -> tuple[str, ...]:
    sentences = []
    for line in solution.splitlines():
        line = re.sub(r"^\s*(?:\d+\.|[•-])\s+", "", line).strip()
        if line.startswith("####") or line.endswith(":") or not line:
            continue
        for sentence in re.split(r"(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<=[\w%)])\.\s+(?=[A-Z])", line):
            sentences.append(sentence.strip().rstrip("."))
    return tuple(s for s in sentences if s)


def _reword_operators(step: str, rng: Random) -> str:
    step = re.sub(r" ?= ?", lambda _: rng.choice(_WAYS["="]), step)
    return _SPACED_OPERATOR.sub(lambda m: rng.choice(_WAYS[_OPERATORS[m.group(1) or m.group(2)]]), step)


def _trailing_expression(text: str) -> list[str] | None:
    """Tokens of the arithmetic that ends `text`, units dropped: `Tom has 3 boxes * 4` gives `['3', '*', '4']`."""
    found: list[str] = []
    words = 0
    for token in reversed(_TOKEN.findall(text)):
        expects_number = not found or found[0] in "*/+-)"
        if token in _OPERATORS and not (token == "x" and expects_number):
            if expects_number:
                break
            found.insert(0, _OPERATORS[token])
            words = 0
        elif re.fullmatch(_NUMBER, token):
            if not expects_number:
                break
            found.insert(0, token)
            words = 0
        elif token in "()":
            return None  # no template nests its arithmetic
        else:
            words += 1
            if words > _MAX_UNIT_WORDS:
                break
    while found and found[0] in "*/+-":
        found.pop(0)
    return found or None


def _leading_value(text: str) -> Fraction | None:
    """Value of the arithmetic that begins `text`: `12 / 4 boxes` gives 3."""
    found: list[str] = []
    words = 0
    for token in _TOKEN.findall(text):
        if re.fullmatch(_NUMBER, token) and (not found or found[-1] in "*/+-"):
            found.append(token)
            words = 0
        elif token in _OPERATORS and found and found[-1] not in "*/+-":
            found.append(_OPERATORS[token])
            words = 0
        elif token[-1].isalpha():
            words += 1
            if words > _MAX_UNIT_WORDS or not found:
                break
        else:
            break
    while found and found[-1] in "*/+-":
        found.pop()
    return _evaluate(found) if found else None


def _evaluate(tokens: list[str]) -> Fraction | None:
    """Evaluate `number (operator number)*` with the usual precedence; None on division by zero."""
    terms = [_value(tokens[0])]
    for operator, number in zip(tokens[1::2], tokens[2::2], strict=False):
        value = _value(number)
        if operator == "*":
            terms[-1] *= value
        elif operator == "/":
            if not value:
                return None
            terms[-1] /= value
        else:
            terms.append(value if operator == "+" else -value)
    return sum(terms, Fraction(0))


def _value(number: str) -> Fraction:
    text = number.strip("€$£,").replace(",", "")
    return Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
