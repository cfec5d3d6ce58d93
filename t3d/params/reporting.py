"""What is measured and shown: benchmarks, tables, figures."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from t3d.params.base import Budget, BudgetText, Caption, Label, Length, Name, Sampling, Seed, Strict


class Benchmark(Strict):
    """One set of questions and how answers are produced and scored."""

    label: Label
    """Its column in the tables."""
    prompts: Name
    """The prompt set that is answered."""
    task: Name
    """The task of `t3d/evaluation/tasks/` by which lm-eval scores answers; `code_function`: programs, which are run."""
    sandbox: Literal["bubblewrap", "process"] = "bubblewrap"
    """Where programs are run. `process` has limits on time and memory only: files and network stay open to them."""
    sampling: Sampling = Sampling()
    """How answers are decoded; greedy by default."""
    max_new_tokens: Length = 256
    """Answers longer than this end with finish reason `length`."""
    batch_size: Length = 32
    """Sequences decoded together; changes speed, never tokens."""


class Row(Strict):
    """A row that shows several students, one per domain, or a model decoded with other settings than the columns
    have."""

    label: Label
    """Its name in the table."""
    model: Name | dict[Name, Name]
    """A student, or the teacher; or column -> the student whose answers it shows."""
    benchmarks: dict[Name, Name] = {}
    """Column -> the benchmark whose answers it shows, which asks the same questions; by default the column's own."""

    def models(self, columns: tuple[str, ...]) -> dict[str, str]:
        """Column -> model, in the order of `columns`; the first one gives the row its looks."""
        return {column: self.model[column] if isinstance(self.model, dict) else self.model for column in columns}


class Comparison(Strict):
    """Models side by side on the same benchmarks at the same budgets."""

    caption: Caption
    """What the reader sees with it."""
    teacher: Name
    """The untouched model, shown first."""
    students: tuple[Name, ...]
    """The rows after it."""
    rows: tuple[Row, ...] = ()
    """More rows, after the students."""
    benchmarks: tuple[Name, ...]
    """What is answered."""
    budgets: Annotated[tuple[BudgetText, ...], Field(min_length=1)]
    """How it is decoded."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Show these seeds of each student; by default all."""
    on_request: bool = False
    """Made only when its file is asked for by name, together with the artefacts that only it needs."""

    @model_validator(mode="after")
    def _is_shown_once(self) -> Self:
        if len(set(self.budgets)) < len(self.budgets):
            raise ValueError("a budget is listed twice in budgets")
        if len(set(self.seeds or ())) < len(self.seeds or ()):
            raise ValueError("a seed is listed twice in seeds")
        for row in self.rows:
            given = row.model if isinstance(row.model, dict) else self.benchmarks
            for filled in (row.benchmarks or self.benchmarks, given):
                if set(filled) != set(self.benchmarks):
                    raise ValueError(f"rows: {row.label!r} fills {sorted(filled)}, not {sorted(self.benchmarks)}")
        return self


class ServedComparison(Comparison):
    """A comparison that may show an autoregressive model beside the others."""

    autoregressive: Name | None = None
    """An autoregressive teacher, shown in one more row of a table, or as a level line of a figure: once per benchmark,
    since it has no budget. Where its scores are missing because vLLM is not installed (`make vllm-env`), a table leaves
    the row out and says so; a figure leaves the line out."""


class Table(Comparison):
    """What the kinds of table share."""

    paper_table: int | None = None
    """The table of `params/reported.csv` whose values stand beside ours where the cell exists."""
    paper_rows: dict[Name, str] = {}
    """Model -> its row in the paper's table, where that is not its label."""


class AccuracyTable(Table, ServedComparison):
    """Rows method x tokens per step, columns block size x benchmark (Tables 1, 2, 4 to 8)."""

    kind: Literal["accuracy"] = "accuracy"
    """Accuracy with intervals and paired tests."""
    base: Name | None = None
    """The row that the others are compared with; by default the teacher."""
    base_budget: BudgetText | None = None
    """Compare each row with itself at this budget instead: what it loses when steps are cut."""

    @model_validator(mode="after")
    def _base_is_shown(self) -> Self:
        if self.base is not None and self.base not in (self.teacher, *self.students):
            raise ValueError(f"base: {self.base!r} is not a row of this table")
        if self.base_budget is not None:
            if self.base is not None:
                raise ValueError("base and base_budget exclude each other; leave one out")
            if self.base_budget not in self.budgets:
                raise ValueError(f"base_budget: {self.base_budget} is not one of budgets")
            if len({Budget.parse(budget).block_size for budget in self.budgets}) > 1:
                raise ValueError("base_budget: the budgets have several block sizes; use a table for each")
        return self


class DecodingTable(Table, ServedComparison):
    """Rows method, columns benchmark x tokens/s, latency, steps, length, accuracy (Table 3 of the paper)."""

    kind: Literal["decoding"]
    """Cost and accuracy of decoding."""


class ParallelismTable(Table):
    """Rows method, columns benchmark x AUP and the fastest budget at matched accuracy (Table 9)."""

    kind: Literal["parallelism"]
    """Accuracy under parallelism."""
    best_accuracy: dict[Name, Annotated[float, Field(gt=0.0, le=100.0)]]
    """y_max of each benchmark, in percent. It is declared, so that a new method does not change the AUP of the
    others."""

    @model_validator(mode="after")
    def _every_benchmark_has_a_best(self) -> Self:
        if set(self.best_accuracy) != set(self.benchmarks):
            raise ValueError(
                f"best_accuracy names {sorted(self.best_accuracy)}, the benchmarks are {sorted(self.benchmarks)}"
            )
        return self


class AccuracyFigure(ServedComparison):
    """Accuracy against parallelism or speed: one panel per benchmark and block size, a line per method."""

    kind: Literal["accuracy"] = "accuracy"
    """A point per budget; static budgets and dynamic ones have lines of their own."""
    against: Literal["tokens_per_step", "tokens_per_second"] = "tokens_per_step"
    """The x axis. Tokens per step as set by a static budget, or as measured for a dynamic one."""

    @model_validator(mode="after")
    def _level_line_has_no_speed(self) -> Self:
        if self.autoregressive is not None and self.against == "tokens_per_second":
            raise ValueError(
                "autoregressive: a level line would stand at every speed; a table of kind decoding shows its own"
            )
        return self


class CommitFigure(Comparison):
    """Where in its block and at which step tokens are committed: one heat map per method (full-step budgets)."""

    kind: Literal["commits"]
    """Read from the step maps of recorded answers."""

    @model_validator(mode="after")
    def _budgets_have_steps(self) -> Self:
        for budget in self.budgets:
            if Budget.parse(budget).steps is None:
                raise ValueError(f"budgets: {budget} has no fixed number of steps")
        return self


class TrainingFigure(Strict):
    """Training curves: loss parts, disagreement and gradient norm against the optimizer step."""

    kind: Literal["training"]
    """Read from each `training.jsonl`."""
    caption: Caption
    """What the reader sees with it."""
    students: tuple[Name, ...]
    """Whose curves."""
    teachers: tuple[Name, ...] = ()
    """Converted teachers whose curves are drawn too, with a point for each time the probes were decoded."""
    on_request: bool = False
    """Made only when its file is asked for by name."""


class FactorisationFigure(Strict):
    """Conditional total correlation against the decoding interval, for a teacher and its students (paper, Fig. 2a)."""

    kind: Literal["factorisation"]
    """See `t3d/evaluation/factorisation.py`."""
    caption: Caption
    """What the reader sees with it."""
    teacher: Name
    """The untouched model."""
    students: tuple[Name, ...]
    """Its students, scored on the same rollouts."""
    trajectories: tuple[Name, ...]
    """Full-step rollouts of the teacher, one panel each; drawn at temperature 1 they measure (21) itself."""
    on_request: bool = False
    """Made only when its file is asked for by name."""


def _kind(given: object) -> str:
    return str(given.get("kind", "accuracy") if isinstance(given, dict) else getattr(given, "kind", "accuracy"))


AnyTable = Annotated[
    Annotated[AccuracyTable, Tag("accuracy")]
    | Annotated[DecodingTable, Tag("decoding")]
    | Annotated[ParallelismTable, Tag("parallelism")],
    Discriminator(_kind),
]
AnyFigure = Annotated[
    Annotated[AccuracyFigure, Tag("accuracy")]
    | Annotated[CommitFigure, Tag("commits")]
    | Annotated[TrainingFigure, Tag("training")]
    | Annotated[FactorisationFigure, Tag("factorisation")],
    Discriminator(_kind),
]
