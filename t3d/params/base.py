"""What every parameter group is made of: strict models, budgets, sampling."""

import os
import re
from typing import Annotated, Any, Literal, Self

# It would ask every package that is installed whether it adds something, and none does.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from t3d.errors import ParameterError, short

_BUDGET = re.compile(r"b(\d+)(?:s(\d+)|t(\d*\.\d+))")
_LONGEST_BUDGET = 40
_DECIMALS = 4
"""Most decimals of a threshold: with so few, `:g` writes it exactly in file names and in the heads of tables."""
_TAKEN = (".manifest.json", ".receipt.json", ".partial", ".states")
"""Suffixes of what lies beside an artefact (`teachers/m.states` holds the training states of `m`); no name ends in
one."""

AUTOREGRESSIVE = "b1s1"
"""The budget under which an autoregressive model's answers are stored: blocks of one token, one step each."""


def _check_name(name: str) -> str:
    for end in _TAKEN:
        if name.endswith(end):
            raise ValueError(f"{name!r} ends in {end}, which names a file beside an artefact; choose another name")
    return name


NAME = "[a-z0-9][a-z0-9._-]*"
"""The pattern of a name in a path: neither `..` nor one that begins with a dot has it."""

Name = Annotated[
    str,
    Field(pattern=f"^{NAME}$", max_length=100, description="A key that also names files."),
    AfterValidator(_check_name),
]


def _as_list(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Names = Annotated[tuple[Name, ...], BeforeValidator(_as_list, json_schema_input_type=Name | tuple[Name, ...])]
"""A list of keys; a single key may stand without a list."""

_MARKUP = ("$", "[", "]", "://", "www.")
"""Markdown's signs for formulas and links. Its other signs are escaped when a table is written."""


def _check_text(text: str) -> str:
    for character in text:
        if not character.isprintable():
            raise ValueError(f"{text!r} has {character!r}, which is not printed; write one line without it")
    for sign in _MARKUP:
        if sign in text:
            raise ValueError(f"{text!r} has {sign!r}, which Markdown takes for a formula or a link; leave it out")
    if not text[:1].isalnum():
        # A cell that begins with = + - @ is a formula to a spreadsheet, a line with # > - a heading, quotation or list.
        raise ValueError(f"{text!r} does not begin with a letter or a digit, as the texts of tables must")
    return text


Label = Annotated[str, Field(max_length=100), AfterValidator(_check_text)]
"""Name of a row, column or curve, as readers see it."""
Caption = Annotated[str, Field(max_length=500), AfterValidator(_check_text)]

Positive = Annotated[int, Field(ge=1, le=10**9)]
Small = Annotated[int, Field(ge=1, le=4096)]
"""Tokens of a block, processes or shards, none of which anybody has more of."""
Length = Annotated[int, Field(ge=1, le=2**20)]
"""Tokens of a row, and rows of a batch."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """Base of every parameter group: unknown keys are refused, values do not change."""

    # Docstrings of attributes are read where the schema is written (`reader.schema`): that takes a third of a start.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


class Budget(Strict):
    """How many tokens one denoising step commits. Written `b4s1` (block 4, 1 step) or `b4t0.9` (threshold .9)."""

    block_size: Small
    """Tokens per block, B."""
    steps: Positive | None = None
    """Denoising steps per block, S: static low-confidence remasking commits B/S tokens a step."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Dynamic remasking: every masked token whose confidence exceeds this is committed, at least one a step."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.steps is None) == (self.threshold is None):
            raise ValueError("a budget has either steps or a threshold")
        if self.steps is not None and self.steps > self.block_size:
            raise ValueError(f"{self.steps} steps for a block of {self.block_size} tokens: a step commits at least one")
        if self.threshold is not None and self.threshold != round(self.threshold, _DECIMALS):
            raise ValueError(f"threshold {self.threshold!r} has more than {_DECIMALS} decimals")
        return self

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `b8s2` or `b8t0.9`.

        Raises:
            ValueError: it is not a budget, or not in its one spelling. Answers are stored under the text of their
                budget, so every budget has one spelling.
        """
        match = _BUDGET.fullmatch(str(text)[:_LONGEST_BUDGET])
        if match is None:
            raise ValueError(f"budget {short(repr(text))} is not of the form b<block>s<steps> or b<block>t<threshold>")
        block, steps, threshold = match.groups()
        try:
            budget = cls(
                block_size=int(block),
                steps=int(steps) if steps else None,
                threshold=float(threshold) if threshold else None,
            )
        except ValidationError as error:
            told = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"budget {text!r}: {told}") from error
        if str(budget) != text:
            raise ValueError(f"budget {text!r} is written {budget}")
        return budget

    def __str__(self) -> str:
        kind = f"s{self.steps}" if self.steps else f"t{self.threshold:g}"
        return f"b{self.block_size}{kind}"

    @property
    def tokens_per_step(self) -> float | None:
        """TokPS = B / S; None for dynamic remasking, where it is measured, not set."""
        return self.block_size / self.steps if self.steps else None


def read_budget(text: str) -> Budget:
    """A budget that a command line gives; raises ParameterError if it is none."""
    try:
        return Budget.parse(text)
    except ValueError as error:
        raise ParameterError(f"--budget: {error}.") from error


def _check_budget(text: str) -> str:
    return str(Budget.parse(text))


BudgetText = Annotated[str, AfterValidator(_check_budget)]


class Sampling(Strict):
    """How a token is drawn at a masked position, and what decides whether it is committed."""

    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0
    """0 is greedy. The paper's rollouts use 0.1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus mass kept, 1 keeps all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Highest-scoring tokens kept, 0 keeps all."""
    confidence: Literal["model", "tempered"] = "model"
    """Confidence is the token's probability under the model's own distribution (`model`), or after the temperature
    (released)."""
    prompt_guard: bool = True
    """A step commits at most the tokens that are masked. Without the guard (released), the rest of a step's quota
    overwrites visible tokens, and prompt tokens too where the prompt ends inside a block."""
