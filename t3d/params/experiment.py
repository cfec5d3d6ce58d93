"""An experiment: everything it makes, by name. `reader.py` reads its file."""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from t3d.params.base import Budget, Name, Seed, Small, Strict
from t3d.params.data import Generations, PromptSet, Source, Trajectories
from t3d.params.reporting import (
    AnyFigure,
    AnyTable,
    Benchmark,
    FactorisationFigure,
    ServedComparison,
    TrainingFigure,
)
from t3d.params.students import Student, run_name
from t3d.params.teachers import Teacher

TASKS = Path(__file__).parents[1] / "evaluation" / "tasks"
PROGRAM_DOMAINS = ("code", "humaneval", "mbpp", "written")
"""Domains whose answers are programs."""

Product = AnyTable | AnyFigure
"""A table or a figure."""


class Experiment(Strict):
    """Everything an experiment makes. `name` is the stem of its file."""

    # What follows from an experiment is cached by identity: fields that are dicts have no hash.
    __hash__ = object.__hash__

    name: Name
    """Set from the file's name."""
    seed: Seed = 0
    """Base of every random draw; students add their own seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where expensive rules run; `auto` takes a GPU where there is one."""
    gpus: Annotated[int, Field(ge=0, le=4096)] = 0
    """GPUs an expensive job asks the scheduler for; training and decoding ask for one per process, unless this is 0."""
    training_processes: Small = 1
    """Processes, one GPU each, that train a student together; each holds a part of it. Changes speed and memory, never
    the training states."""
    decoding_processes: Small = 1
    """Processes, one GPU each, that decode a shard of trajectories or of generations, or the answers to a benchmark,
    together, each with `batch_size` sequences at a time. Changes speed, never tokens."""
    sources: dict[Name, Source] = {}
    """What is fetched from the hub."""
    teachers: Annotated[dict[Name, Teacher], Field(min_length=1)]
    """The untouched models."""
    prompt_sets: dict[Name, PromptSet]
    """Questions, tokenised."""
    generations: dict[Name, Generations] = {}
    """Autoregressive teachers' own answers, which conversions learn from."""
    trajectories: dict[Name, Trajectories] = {}
    """Rollouts of teachers, and of students in further rounds."""
    students: dict[Name, Student] = {}
    """Distilled models."""
    benchmarks: dict[Name, Benchmark] = {}
    """What models are evaluated on."""
    tables: dict[Name, AnyTable] = {}
    """`results/<experiment>/<key>.csv`."""
    figures: dict[Name, AnyFigure] = {}
    """`results/<experiment>/figures/<key>.pdf`."""

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> Self:
        """Answers are filed under teachers and runs; a student's key stands for all its runs."""
        owners = {key: f"teachers.{key}" for key in self.teachers}
        for key, student in self.students.items():
            for name in (key, *(run_name(key, seed) for seed in student.seeds)):
                where = f"students.{key}" if name == key else f"students.{key}.seeds: its run {name}"
                if (other := owners.setdefault(name, where)) != where:
                    raise ValueError(f"{where} has the name of {other}; name one of them otherwise")
        return self

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        for key, teacher in self.teachers.items():
            self._check_source(f"teachers.{key}.hub", teacher.hub, "model")
        for key, prompts in self.prompt_sets.items():
            self._check(f"prompt_sets.{key}.teacher", "teachers", [prompts.teacher])
            self._check_source(f"prompt_sets.{key}.source", prompts.source, "dataset")
        for key, generations in self.generations.items():
            self._check(f"generations.{key}.prompts", "prompt_sets", [generations.prompts])
            if not self.teachers[name := self.prompt_sets[generations.prompts].teacher].autoregressive:
                raise ValueError(
                    f"generations.{key}.prompts: {name}, the teacher of {generations.prompts}, has no "
                    "`attention: causal`; a diffusion LM's answers are `trajectories`"
                )
            if generations.task is not None:
                self._check_task(f"generations.{key}", generations)
        for key, prompts in self.prompt_sets.items():
            self._check_written(key, prompts)
            if isinstance(prompts.examples, str):
                self._check(f"prompt_sets.{key}.examples", "prompt_sets", [prompts.examples])
                shown = self.prompt_sets[prompts.examples]
                if shown.split != "train" or shown.openings or shown.teacher != prompts.teacher:
                    raise ValueError(
                        f"prompt_sets.{key}.examples: {prompts.examples} are no questions of split train that "
                        f"{prompts.teacher} is asked"
                    )
        for key, teacher in self.teachers.items():
            self._check_conversion(key, teacher)
        for key, trajectories in self.trajectories.items():
            self._check(f"trajectories.{key}.prompts", "prompt_sets", [trajectories.prompts])
            if self.prompt_sets[trajectories.prompts].split != "train":
                raise ValueError(f"trajectories.{key}.prompts: only prompts of split train may be learned from")
            self._check_decoder(f"trajectories.{key}.prompts", trajectories.prompts)
            if trajectories.model is not None:
                self._check(f"trajectories.{key}.model", "students", [trajectories.model])
        for key, student in self.students.items():
            self._check_student(key, student)
        self._check_rounds()
        if "average" in self.benchmarks:
            raise ValueError("benchmarks.average: the tables use this name for the mean over benchmarks")
        for key, benchmark in self.benchmarks.items():
            self._check(f"benchmarks.{key}.prompts", "prompt_sets", [benchmark.prompts])
            self._check_task(f"benchmarks.{key}", benchmark)
        for kind, products in (("tables", self.tables), ("figures", self.figures)):
            for key, product in products.items():
                self._check_product(f"{kind}.{key}", product)
        return self

    def _check(self, where: str, kind: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in (known := getattr(self, kind)):
                raise ValueError(f"{where} names {name!r}, which is not among {kind}: {', '.join(known) or 'none'}")

    def _check_task(self, where: str, asking: Benchmark | Generations) -> None:
        """The task of a benchmark or of generations is there, and can judge answers to their prompts."""
        asked = self.prompt_sets[asking.prompts]
        if asked.domain == "openings":
            raise ValueError(f"{where}.task: {asking.prompts} are openings, to which no answer is right")
        if asked.columns is not None and asked.columns.answer is None:
            raise ValueError(f"prompt_sets.{asking.prompts}.columns.answer: {where} needs a final answer")
        there = sorted(path.stem for path in TASKS.glob("*.yaml"))
        if asking.task not in there:
            raise ValueError(f"{where}.task: there is no task {asking.task!r}: {', '.join(there)}")
        if (asked.domain in PROGRAM_DOMAINS) != (asking.task == "code_function"):
            raise ValueError(
                f"{where}.task: {asking.task} does not fit domain {asked.domain}; programs, and only they, are judged "
                "by code_function"
            )

    def _check_source(self, where: str, name: str | None, kind: str) -> None:
        if name is None:
            return
        self._check(where, "sources", [name])
        if self.sources[name].kind != kind:
            raise ValueError(f"{where}: sources.{name} is a {self.sources[name].kind}, a {kind} is needed")

    def _check_teacher(self, where: str, name: str) -> None:
        self._check(where, "teachers", [name])
        if self.teachers[name].autoregressive:
            raise ValueError(f"{where}: {name} is autoregressive; name a diffusion LM, which has blocks and steps")

    def _check_decoder(self, where: str, prompts: str) -> None:
        self._check_teacher(f"{where}: prompt_sets.{prompts}.teacher", self.prompt_sets[prompts].teacher)

    def _check_written(self, key: str, prompts: PromptSet) -> None:
        if prompts.generations is None:
            return
        where = f"prompt_sets.{key}.generations"
        self._check(where, "generations", [prompts.generations])
        opened = self.prompt_sets[self.generations[prompts.generations].prompts]
        # A converted teacher is asked what the model that it was made from has written.
        if opened.domain != "openings" or opened.teacher not in (
            prompts.teacher,
            self.teachers[prompts.teacher].initial,
        ):
            raise ValueError(f"{where}: {prompts.generations} do not go on with openings of {prompts.teacher}")

    def _check_conversion(self, key: str, teacher: Teacher) -> None:
        name = teacher.initial
        if name is None:
            return
        self._check(f"teachers.{key}.initial", "teachers", [name])
        if not self.teachers[name].autoregressive:
            raise ValueError(f"teachers.{key}.initial: {name} has no `attention: causal`; name an autoregressive LM")
        where = f"teachers.{key}.generations"
        for answers in teacher.generations or ():
            self._check(where, "generations", [answers])
            prompts = self.prompt_sets[self.generations[answers].prompts]
            if prompts.teacher != name:
                raise ValueError(f"{where}: {answers} are answers of {prompts.teacher}, not of {name}")
            if prompts.domain == "openings":
                raise ValueError(f"{where}: {answers} are tasks, which openings begin, not answers")
            if prompts.split != "train":
                raise ValueError(
                    f"{where}: {answers} answer prompts of split {prompts.split}; only those of split train may be "
                    "learned from"
                )
        own = teacher.generations or ()
        if teacher.keeps_right and all(self.generations[answers].task is None for answers in own):
            raise ValueError(
                f"teachers.{key}.conversion.keep: none of its generations ({', '.join(own)}) has a `task` that says "
                "which answers are right"
            )

    def _check_rounds(self) -> None:
        """Students that others learn from or begin with have their teacher and seeds, and are made before them."""
        for key, trajectories in self.trajectories.items():
            if trajectories.model is not None:
                asking = self.prompt_sets[trajectories.prompts].teacher
                if (copied := self.teacher_of(self.students[trajectories.model])) != asking:
                    raise ValueError(
                        f"trajectories.{key}.model: {trajectories.model} is a student of {copied}, the prompts are "
                        f"those of {asking}"
                    )
        origins: dict[str, dict[str, str]] = {}
        for key, student in self.students.items():
            models = {self.trajectories[name].model: f"trajectories.{name}.model" for name in student.trajectories}
            found = models | {student.initial: f"students.{key}.initial"}
            origins[key] = {other: where for other, where in found.items() if other is not None}
            for other, where in origins[key].items():
                teachers = self.teacher_of(self.students[other]), self.teacher_of(student)
                if teachers[0] != teachers[1]:
                    raise ValueError(f"{where}: {other} is a student of {teachers[0]}, students.{key} of {teachers[1]}")
                for seed in sorted(set(student.seeds) - set(self.students[other].seeds)):
                    raise ValueError(f"{where}: {other} has no seed {seed}, which students.{key} has")
        try:
            TopologicalSorter(origins).prepare()
        except CycleError as error:
            ring = error.args[1]
            fields = ", ".join(origins[later][earlier] for earlier, later in pairwise(ring))
            raise ValueError(
                f"{fields}: a ring ({', '.join(ring[1:])}), in which no student could be made first; name one of an "
                "earlier round"
            ) from None

    def _check_student(self, key: str, student: Student) -> None:
        self._check(f"students.{key}.trajectories", "trajectories", student.trajectories)
        self._check(f"students.{key}.prompts", "prompt_sets", student.prompts)
        for name in student.prompts:
            self._check_decoder(f"students.{key}.prompts", name)
            columns = self.prompt_sets[name].columns
            if columns is not None and columns.reference is None:
                raise ValueError(f"prompt_sets.{name}.columns.reference: students.{key} learns from worked answers")
        if any(self.prompt_sets[name].split != "train" for name in student.prompts):
            raise ValueError(f"students.{key}.prompts: only prompts of split train may be learned from")
        if len({self.prompt_sets[name].teacher for name in self.prompts_of(student)}) > 1:
            raise ValueError(f"students.{key}: its data belong to different teachers; a student copies one")
        if len({self.trajectories[name].budget for name in student.trajectories}) > 1:
            raise ValueError(f"students.{key}.trajectories: decoded at different budgets, a student needs one")
        for name in student.trajectories if student.states.threshold is not None else ():
            budget = Budget.parse(self.trajectories[name].budget)
            if budget.steps != budget.block_size:
                raise ValueError(
                    f"students.{key}.states.threshold: trajectories.{name} was not decoded one token a step, so it "
                    "does not say how certain each token was"
                )
        for first, second in combinations(student.trajectories, 2):
            if self.trajectories[first].prompts == self.trajectories[second].prompts:
                raise ValueError(
                    f"students.{key}.trajectories: {first} and {second} are rollouts of the same prompts "
                    f"({self.trajectories[first].prompts}); name one of them"
                )
        for name in student.trajectories:
            if student.keep is not None and not self.trajectories[name].scored:
                raise ValueError(f"students.{key}.keep: rollouts have no scores without trajectories.{name}.scored")
        if student.initial is not None:
            self._check(f"students.{key}.initial", "students", [student.initial])
        if fault := student.fault_of(self.training_processes):
            raise ValueError(f"students.{key}.{fault}")

    def _check_product(self, where: str, product: Product) -> None:
        self._check(f"{where}.students", "students", product.students)
        if isinstance(product, TrainingFigure):
            self._check(f"{where}.teachers", "teachers", product.teachers)
            for key in product.teachers:
                if self.teachers[key].source != "convert":
                    raise ValueError(f"{where}.teachers: {key} is not made by a conversion, which alone has such a log")
            return
        self._check_teacher(f"{where}.teacher", product.teacher)
        if isinstance(product, FactorisationFigure):
            self._check(f"{where}.trajectories", "trajectories", product.trajectories)
            for key in product.trajectories:
                if self.trajectories[key].model is not None:
                    raise ValueError(
                        f"{where}.trajectories: {key} has a `model`; the error is that of a teacher's text"
                    )
            return
        self._check(f"{where}.benchmarks", "benchmarks", product.benchmarks)
        for row in product.rows:
            models = set(row.models(product.benchmarks).values()) - {product.teacher}
            self._check(f"{where}.rows.{row.label}.model", "students", models)
            if len({self.students[model].seeds for model in models}) > 1:
                raise ValueError(f"{where}.rows.{row.label}.model: its students have different seeds")
            self._check(f"{where}.rows.{row.label}.benchmarks", "benchmarks", row.benchmarks.values())
            for column, benchmark in row.benchmarks.items():
                if self.benchmarks[column].prompts != self.benchmarks[benchmark].prompts:
                    raise ValueError(f"{where}.rows.{row.label}: {benchmark} asks other questions than {column}")
        shown = {*product.students, *(m for row in product.rows for m in row.models(product.benchmarks).values())}
        for key in sorted(shown - {product.teacher}):
            for seed in sorted(set(product.seeds or ()) - set(self.students[key].seeds)):
                raise ValueError(f"{where}.seeds: students.{key} has no seed {seed}")
        labels = [self.teachers[product.teacher].label, *(self.students[key].label for key in product.students)]
        labels += [row.label for row in product.rows]
        if isinstance(product, ServedComparison) and (name := product.autoregressive) is not None:
            self._check(f"{where}.autoregressive", "teachers", [name])
            if not self.teachers[name].autoregressive:
                raise ValueError(f"{where}.autoregressive: {name} has no `attention: causal`")
            labels.append(self.teachers[name].label)
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"{where}: two of its rows have the label {label!r}")

    def prompts_of(self, student: Student) -> tuple[str, ...]:
        """Names of the prompt sets a student learns from."""
        return student.prompts or tuple(self.trajectories[name].prompts for name in student.trajectories)

    def teacher_of(self, student: Student) -> str:
        """Name of the teacher a student copies: the one whose prompts it learns from."""
        return self.prompt_sets[self.prompts_of(student)[0]].teacher
