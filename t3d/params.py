"""The parameters of an experiment: one typed model, the only reader of `params/*.yaml`.

An experiment file says *what* is made: teachers, prompt sets, trajectories, students, benchmarks, tables and figures.
`params/schema.json` is generated from here (`python -m t3d.params > params/schema.json`) and a test catches drift.
"""

import json
import re
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from t3d.errors import ParameterError

_BUDGET = re.compile(r"b(\d+)(?:s(\d+)|t(0?\.\d+))")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="A key that also names files.")]
Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """Base of every parameter group: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Budget(Strict):
    """How many tokens one denoising step commits. Written `b4s1` (block 4, 1 step) or `b4t0.9` (threshold .9)."""

    block_size: Positive
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
        return self

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `b8s2` or `b8t0.9`; raises `ValueError` otherwise."""
        match = _BUDGET.fullmatch(str(text))
        if match is None:
            raise ValueError(f"budget {text!r} is not of the form b<block>s<steps> or b<block>t<threshold>")
        block, steps, threshold = match.groups()
        return cls(
            block_size=int(block),
            steps=int(steps) if steps else None,
            threshold=float(threshold) if threshold else None,
        )

    def __str__(self) -> str:
        kind = f"s{self.steps}" if self.steps else f"t{self.threshold:g}"
        return f"b{self.block_size}{kind}"

    @property
    def tokens_per_step(self) -> float | None:
        """TokPS = B / S; None for dynamic remasking, where it is measured, not set."""
        return self.block_size / self.steps if self.steps else None


def _check_budget(text: str) -> str:
    return str(Budget.parse(text))


BudgetText = Annotated[str, AfterValidator(_check_budget)]


class Sampling(Strict):
    """How a token is drawn at a masked position, and what decides whether it is committed."""

    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """0 is greedy. The paper's rollouts use 0.1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus mass kept, 1 keeps all."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Highest-scoring tokens kept, 0 keeps all."""
    confidence: Literal["model", "tempered"] = "model"
    """Confidence is the token's probability under the model's own distribution, or after the temperature (released)."""
    prompt_guard: bool = True
    """A step commits no more tokens than are masked. Without it (released) the surplus of a step's quota overwrites
    visible tokens, of the prompt too, where the prompt ends inside a block."""


class Difficulty(Strict):
    """Limits on procedural problems, so that a small model can be good at them; None sets no limit."""

    max_steps: Positive | None = None
    """Sentences of the worked answer."""
    max_number: Positive | None = None
    """Every number of question and worked answer is whole and at most this."""


class PocketModel(Strict):
    """The shape of a pocket SDAR that is pretrained from scratch."""

    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Byte-level BPE tokens, special tokens included; digits are single tokens."""
    hidden_size: Positive = 256
    """Width d."""
    layers: Positive = 6
    """Transformer layers."""
    heads: Positive = 4
    """Attention heads."""
    key_value_heads: Positive = 2
    """Key/value heads of grouped-query attention."""
    head_dim: Positive = 64
    """Width of one head."""
    intermediate_size: Positive = 768
    """Width of the gated MLP."""


class Pretraining(Strict):
    """Masked block-diffusion pretraining of a pocket teacher on procedurally generated text."""

    model: PocketModel = PocketModel()
    """Its shape."""
    domains: dict[Literal["gsm", "code"], Positive] = {"gsm": 1}
    """Domain -> its share of the rows, relative to the others."""
    problems: Positive = 600_000
    """Training rows over all domains: distinct word problems, each phrased once; code problems come again, written
    another way."""
    difficulty: Difficulty = Difficulty()
    """Which problems are drawn."""
    max_length: Positive = 320
    """Rows longer than this are left out, tokens."""
    block_sizes: tuple[Positive, ...] = (4, 8)
    """Block sizes trained, taking turns by step, so that each of them can be decoded."""
    steps: Positive = 5600
    """Optimizer steps."""
    batch_size: Positive = 512
    """Rows per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    """Peak of the cosine schedule."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Linear warm-up, optimizer steps."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """AdamW weight decay."""
    compile: bool = False
    """Compile the model; changes speed, and results only by rounding."""


class Teacher(Strict):
    """Where the untouched model comes from."""

    source: Literal["shipped", "pretrain"]
    """`shipped`: weights that lie in the repository; `pretrain`: made by the DAG."""
    path: str | None = None
    """Folder of a shipped teacher, relative to the project."""
    pretraining: Pretraining | None = None
    """How a `pretrain` teacher is made."""
    label: str = "Original"
    """Its row in the tables."""

    @model_validator(mode="after")
    def _source_is_described(self) -> Self:
        needed = {"shipped": "path", "pretrain": "pretraining"}[self.source]
        if getattr(self, needed) is None:
            raise ValueError(f"a teacher with source: {self.source} needs `{needed}`")
        return self


class PromptSet(Strict):
    """Questions of one domain and split, tokenised once by a teacher's chat template."""

    teacher: Name
    """Whose tokenizer and chat template turn text into ids."""
    domain: Literal["gsm", "code"] = "gsm"
    """The generator: `gsm` is reasoning-gym's gsm_symbolic with paraphrased worked answers, `code` small functions."""
    split: Literal["train", "validation", "test"]
    """Splits are disjoint by the text of the problem."""
    count: Positive
    """Number of prompts."""
    difficulty: Difficulty = Difficulty()
    """Which problems are drawn."""
    suffix: str = ""
    """Text put after every question, at rollout and at evaluation alike."""


class Trajectories(Strict):
    """Full-step decoding of a prompt set by its teacher."""

    prompts: Name
    """The prompt set that is decoded."""
    budget: BudgetText = "b8s8"
    """Block size and steps per block of the rollout; full-step is one token per step."""
    sampling: Sampling = Sampling(temperature=0.1)
    """The paper: temperature 0.1, top-p 1, no top-k."""
    max_new_tokens: Positive = 256
    """Response tokens after which a rollout ends with finish reason `length`."""
    shards: Positive = 1
    """Shard files, one job each; a prompt's rollout does not depend on its shard."""
    batch_size: Positive = 32
    """Sequences decoded together; changes speed and memory, never tokens."""


class States(Strict):
    """How a training state x_t is drawn from a response x_0."""

    kind: Literal["trajectory", "random", "full"]
    """`trajectory`: visible = committed by the teacher up to a step; `random`: each token masked independently;
    `full`: every token masked."""
    mask_ratios: Literal["released", "uniform"] | dict[float, Probability] = "released"
    """Trajectory states: share of a block that is still masked -> its probability. `released`: 1, .75, .5, .25 weighted
    by ratio^8; `uniform`: every step of the rollout alike, s/S for s in 1..S."""
    mask_ratio_per: Literal["sample", "block"] = "sample"
    """Trajectory states: one ratio is drawn per sample (released), or one per block."""
    mask_order: Literal["committed", "reversed"] = "committed"
    """Trajectory states: `committed`: tokens the teacher committed first are visible; `reversed`: masked (released)."""
    complement: bool = False
    """Random states: learn from each state and from its complement, so that every token is masked once (dParallel)."""
    random_tokens: Probability = 0.0
    """Share of masked inputs that hold a random token instead of the mask; they stay in the loss. Released: 0.1."""
    redraw: Literal["epoch", "never"] = "epoch"
    """A sample's state is drawn anew each epoch, or once for all of them (released)."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for field in ("mask_ratios", "mask_ratio_per", "mask_order"):
            if self.kind != "trajectory" and field in self.model_fields_set:
                raise ValueError(f"{field} describes trajectory states, not {self.kind} ones")
        if self.complement and self.kind != "random":
            raise ValueError(f"a complement is taken of random states, not of {self.kind} ones")
        if isinstance(self.mask_ratios, dict):
            if any(not 0.0 < ratio <= 1.0 for ratio in self.mask_ratios):
                raise ValueError(f"mask ratios lie in (0, 1], found {sorted(self.mask_ratios)}")
            total = sum(self.mask_ratios.values())
            if abs(total - 1.0) > 1e-6:
                raise ValueError(f"the probabilities of mask_ratios sum to {total:g}, not 1")
        return self

    def ratio_distribution(self, steps: int) -> dict[float, float]:
        """Mask ratio -> probability of trajectory states whose rollout took `steps` steps a block."""
        if isinstance(self.mask_ratios, dict):
            return dict(self.mask_ratios)
        if self.mask_ratios == "uniform":
            return {step / steps: 1 / steps for step in range(1, steps + 1)}
        weights = {ratio: ratio**8 for ratio in (1.0, 0.75, 0.5, 0.25)}
        total = sum(weights.values())
        return {ratio: weight / total for ratio, weight in weights.items()}


_DDO = {"alpha", "beta", "fake", "refresh_every"}
_PATH = {"path_weight", "path_weights"}
_OPTIONS = {
    "sft": set(),
    "redi": set(),
    "dparallel": {"entropy_weight", "entropy_temperature"},
    "naive_td": _PATH,
    "ddo": _DDO,
    "t3d": _DDO | _PATH,
}
_STATES_OF = {
    "sft": ("random",),
    "redi": ("random",),
    "dparallel": ("full", "random"),
    "naive_td": ("trajectory",),
    "ddo": ("trajectory",),
    "t3d": ("trajectory",),
}


class Objective(Strict):
    """The loss of a student; `t3d/distillation/objectives.py` has one function of each name."""

    name: Literal["sft", "redi", "dparallel", "naive_td", "ddo", "t3d"]
    """`sft`, `redi`, `dparallel`, `naive_td` are likelihoods; `ddo` is trajectory DDO (6), `t3d` DDO plus path (10)."""
    log_probability: Literal["mean", "sum"] = "mean"
    """log p of a sample: the mean over its masked positions (released), or their sum (the equations' letter)."""
    alpha: Annotated[float, Field(ge=0.0)] = 0.5
    """DDO: weight of the fake term. Released value."""
    beta: Annotated[float, Field(gt=0.0)] = 0.1
    """DDO: scale of the log-ratio. Released value."""
    fake: Literal["draw", "argmax"] = "draw"
    """DDO: the reference's fake tokens are drawn from it (6), or its argmax (released)."""
    refresh_every: Positive = 10
    """DDO: optimizer steps of a round, after which the reference becomes the student. The paper's value."""
    path_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """lambda of (10), the path term's weight. t3d: the paper's 0.2 unless given; naive_td: 0."""
    path_weights: Literal["equation", "released"] = "equation"
    """Path term: w_i = (S - pi_i + 1) / S of (9); `released`: 0.75 for the first half of the steps, then 0.25."""
    entropy_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """dparallel: weight of the entropy of masked tokens that are already predicted right. Its official recipe: 2."""
    entropy_temperature: Annotated[float, Field(gt=0.0)] = 0.5
    """dparallel: temperature of that entropy. Its official recipe's value."""

    @model_validator(mode="before")
    @classmethod
    def _has_its_options_only(cls, given: Any) -> Any:
        name = str(given.get("name")) if isinstance(given, dict) else ""
        if name not in _OPTIONS:
            return given
        for option in sorted(set().union(*_OPTIONS.values()) & set(given) - _OPTIONS[name]):
            allowed = ", ".join(sorted(_OPTIONS[name] | {"log_probability"}))
            raise ValueError(f"objective {name} has no {option}; its options: {allowed}")
        return ({"path_weight": 0.2} if name == "t3d" else {}) | given


class Optimizer(Strict):
    """AdamW with linear warm-up and cosine decay, counted in optimizer steps."""

    steps: Positive
    """Optimizer steps."""
    batch_size: Positive
    """Sequences per optimizer step, over all micro-batches."""
    micro_batch_size: Positive | None = None
    """Sequences per forward; gradients accumulate over batch_size / micro_batch_size of them. Default: batch_size."""
    learning_rate: Annotated[float, Field(gt=0.0)]
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Linear warm-up from 0."""
    final_fraction: Probability = 0.1
    """The cosine ends at this share of the peak. Released value."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Decoupled weight decay. Released value."""
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    """Gradient norm limit. Released value."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Adam's moment decays. Released values."""

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} leaves nothing of {self.steps} steps")
        return self


class Rows(Strict):
    """How a training row is made of a rollout. The defaults are what the decoder saw, the others released behaviour."""

    block_grid: Literal["global", "response"] = "global"
    """Blocks are counted from the first token of the prompt, as in decoding, or of the response (released)."""
    terminal_block: Literal["whole", "cut"] = "whole"
    """The block that holds the end-of-text token is kept whole, or cut after that token (released)."""
    prompt: Literal["recorded", "bare"] = "recorded"
    """The rollout's prompt ids, or the question without the prompt set's suffix (released)."""
    rollout_blocks: Literal["equal", "any"] = "equal"
    """Rollouts were decoded in blocks of the student's size, or of any size (released: 4, trained in blocks of 8)."""


_BUNDLES: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {},
    "paper": {
        "objective": {"log_probability": "sum", "alpha": 1.0, "beta": 1.0},
        "states": {"random_tokens": 0.1},
    },
    "released": {
        "objective": {"fake": "argmax", "path_weights": "released"},
        "states": {"mask_order": "reversed", "random_tokens": 0.1, "redraw": "never"},
        "rows": {"block_grid": "response", "terminal_block": "cut", "prompt": "bare", "rollout_blocks": "any"},
    },
}


class Student(Strict):
    """One row of the tables: a copy of the teacher tuned by an objective on a data set."""

    recipe: Literal["ours", "paper", "released"] = "ours"
    """Values of what is not given below. `ours`: the documented defaults; `paper`: the equations' letter (log p a sum,
    alpha and beta 1) with random tokens; `released`: every switch as in the public code."""
    label: str
    """Its row in the tables, as the paper writes it."""
    trajectories: Name | None = None
    """Rollouts it learns from (redi, naive_td, t3d)."""
    prompts: Name | None = None
    """Prompt set whose gold worked answers it learns from (sft)."""
    objective: Objective
    """The loss."""
    states: States
    """How training states are drawn."""
    rows: Rows = Rows()
    """How training rows are made."""
    block_size: Positive = 8
    """Training block size (the paper: 8)."""
    optimizer: Optimizer
    """Steps, batch, learning rate."""
    seeds: tuple[int, ...] = (0,)
    """One student is trained per seed."""
    checkpoint_every: Positive = 50
    """Optimizer steps between resumable checkpoints in `work/`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for group, values in _BUNDLES.get(str(given.get("recipe", "ours")), {}).items():
            own = given.get(group, {})
            if isinstance(own, dict):
                filled[group] = {key: value for key, value in values.items() if _applies(key, group, given)} | own
        return filled

    @model_validator(mode="after")
    def _data_fits_objective(self) -> Self:
        name = self.objective.name
        gold = name == "sft"
        if gold != (self.prompts is not None) or gold == (self.trajectories is not None):
            wants, other = ("prompts", "trajectories") if gold else ("trajectories", "prompts")
            raise ValueError(f"objective {name} learns from `{wants}`, not from `{other}`")
        if self.states.kind not in _STATES_OF[name]:
            kinds = " or ".join(_STATES_OF[name])
            raise ValueError(f"objective {name} is defined on {kinds} states, not {self.states.kind}")
        if gold and self.rows != Rows():
            raise ValueError("rows describes how rollouts become training rows; sft learns from gold answers")
        if not self.seeds:
            raise ValueError("a student needs at least one seed")
        return self


def _applies(option: str, group: str, student: dict[str, Any]) -> bool:
    """Whether an option of a recipe has a meaning for this student."""

    def of(group: str, field: str) -> Any:
        own = student.get(group, {})
        return own.get(field) if isinstance(own, dict) else getattr(own, field)

    if group == "objective":
        return option == "log_probability" or option in _OPTIONS.get(str(of("objective", "name")), ())
    if group == "states":
        return option == "redraw" or of("states", "kind") == "trajectory"
    return of("objective", "name") != "sft"


class Benchmark(Strict):
    """One set of questions and how answers are produced and scored."""

    label: str
    """Its column in the tables."""
    prompts: Name
    """The prompt set that is answered."""
    task: Name
    """The lm-eval task of `t3d/evaluation/tasks/` that asks the questions and, but for programs, scores the answers."""
    sandbox: Literal["bubblewrap", "process"] = "bubblewrap"
    """Where programs are run. `process` has limits on time and memory only: files and network stay open to them."""
    sampling: Sampling = Sampling()
    """How answers are decoded; greedy by default."""
    max_new_tokens: Positive = 256
    """Answers longer than this end with finish reason `length`."""
    batch_size: Positive = 32
    """Sequences decoded together; changes speed, never tokens."""


class AccuracyTable(Strict):
    """Rows method x tokens per step, columns block size x benchmark (Table 1 of the paper)."""

    caption: str
    """What the reader sees above it."""
    teacher: Name
    """The untouched model, first row and base of every difference."""
    students: tuple[Name, ...]
    """The rows after it."""
    benchmarks: tuple[Name, ...]
    """The columns, once per block size."""
    budgets: tuple[BudgetText, ...]
    """Static budgets: each gives a row's tokens per step and a column's block size."""
    paper_table: int | None = None
    """The table of `params/reported.csv` whose values stand beside ours where the cell exists."""
    on_request: bool = False
    """Made only when its file is asked for by name, with the students that only it shows."""


class AccuracyFigure(Strict):
    """Accuracy against tokens per step, one panel per block size and benchmark."""

    caption: str
    """What the reader sees under it."""
    teacher: Name
    """The untouched model."""
    students: tuple[Name, ...]
    """Its students."""
    benchmarks: tuple[Name, ...]
    """One row of panels each."""
    budgets: tuple[BudgetText, ...]
    """The points of each line."""


class Experiment(Strict):
    """Everything an experiment makes. `name` is the stem of its file."""

    name: Name
    """Set from the file's name."""
    seed: int = 0
    """Base of every random draw but the students', which add their own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where expensive rules run; `auto` takes a GPU where there is one."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs an expensive job asks the scheduler for."""
    teachers: dict[Name, Teacher]
    """The untouched models."""
    prompt_sets: dict[Name, PromptSet]
    """Questions, tokenised."""
    trajectories: dict[Name, Trajectories] = {}
    """Rollouts of teachers."""
    students: dict[Name, Student] = {}
    """Distilled models."""
    benchmarks: dict[Name, Benchmark] = {}
    """What models are evaluated on."""
    tables: dict[Name, AccuracyTable] = {}
    """`results/<experiment>/<key>.csv`."""
    figures: dict[Name, AccuracyFigure] = {}
    """`results/<experiment>/figures/<key>.pdf`."""

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        def check(where: str, kind: str, names: Iterable[str | None]) -> None:
            known = getattr(self, kind)
            for name in names:
                if name is not None and name not in known:
                    raise ValueError(f"{where} names {name!r}, which is not among {kind}: {', '.join(known) or 'none'}")

        for key, prompts in self.prompt_sets.items():
            check(f"prompt_sets.{key}.teacher", "teachers", [prompts.teacher])
        for key, trajectories in self.trajectories.items():
            check(f"trajectories.{key}.prompts", "prompt_sets", [trajectories.prompts])
            if self.prompt_sets[trajectories.prompts].split != "train":
                raise ValueError(f"trajectories.{key}.prompts: only prompts of split train may be learned from")
        for key, student in self.students.items():
            check(f"students.{key}.trajectories", "trajectories", [student.trajectories])
            check(f"students.{key}.prompts", "prompt_sets", [student.prompts])
            if key in self.teachers:
                raise ValueError(f"students.{key}: a teacher has the same name")
            if student.prompts is not None and self.prompt_sets[student.prompts].split != "train":
                raise ValueError(f"students.{key}.prompts: only prompts of split train may be learned from")
        if "average" in self.benchmarks:
            raise ValueError("benchmarks.average: the tables use this name for the mean over benchmarks")
        for key, benchmark in self.benchmarks.items():
            check(f"benchmarks.{key}.prompts", "prompt_sets", [benchmark.prompts])
        for kind, products in (("tables", self.tables), ("figures", self.figures)):
            for key, product in products.items():
                check(f"{kind}.{key}.teacher", "teachers", [product.teacher])
                check(f"{kind}.{key}.students", "students", product.students)
                check(f"{kind}.{key}.benchmarks", "benchmarks", product.benchmarks)
                if len(set(product.budgets)) < len(product.budgets):
                    raise ValueError(f"{kind}.{key}.budgets: a budget is listed twice")
                for budget in product.budgets:
                    if Budget.parse(budget).steps is None:
                        raise ValueError(f"{kind}.{key}.budgets: {budget} is dynamic; tokens per step must be set")
        return self

    @cached_property
    def runs(self) -> dict[str, tuple[str, int]]:
        """Run name -> (student, seed): `t3d-seed0` for student `t3d` and seed 0."""
        return {f"{key}-seed{seed}": (key, seed) for key, student in self.students.items() for seed in student.seeds}

    def teacher_of(self, student: Student) -> str:
        """Name of the teacher a student copies: the one whose prompts it learns from."""
        prompts = student.prompts or self.trajectories[student.trajectories or ""].prompts
        return self.prompt_sets[prompts].teacher

    def models_of(self, product: AccuracyTable | AccuracyFigure) -> list[str]:
        """Names of the models a table or figure shows: its teacher, then each student's runs."""
        wanted = product.students
        return [product.teacher] + [run for run, (student, _) in self.runs.items() if student in wanted]


def load(path: str | Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ParameterError: the file is missing, is not YAML, or holds a key or value that is not allowed; the message gives
            file, field path, what was found and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(f"unknown experiment {path.stem!r}: no file {path}. Experiments there: {there}.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ParameterError(f"{path}: expected a mapping of parameters, found {type(raw).__name__}.")
    if "name" in raw:
        raise ParameterError(f"{path}: `name` follows from the file's name; remove the key.")
    try:
        return Experiment(name=path.stem, **raw)
    except ValidationError as error:
        raise ParameterError(f"{path}:\n" + "\n".join(_explain(e) for e in error.errors())) from error


def find(experiment: str) -> Experiment:
    """Read `params/<experiment>.yaml` of the working directory."""
    return load(Path("params") / f"{experiment}.yaml")


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "(top level)"
    if error["type"] == "extra_forbidden":
        model: type[BaseModel] | None = Experiment
        for part in error["loc"][:-1]:
            model = _child(model, part)
        allowed = f" Allowed here: {', '.join(model.model_fields)}." if model else ""
        return f"  {where}: unknown key.{allowed}"
    found = "" if error["type"] in ("missing", "value_error") else f" Found: {error['input']!r}."
    return f"  {where}: {error['msg'].removeprefix('Value error, ')}.{found}"


def _child(model: type[BaseModel] | None, part: str | int) -> type[BaseModel] | None:
    """The parameter group that field `part` of `model` holds; a dict's key leads to the same group."""
    if model is None or part not in model.model_fields:
        return model
    pending = [model.model_fields[str(part)].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        pending.extend(getattr(annotation, "__args__", ()))
    return None


def schema() -> str:
    """The JSON schema of an experiment file, as text."""
    return json.dumps(Experiment.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
