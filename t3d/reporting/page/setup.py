"""What was run, in words: teachers, students, benchmarks, budgets of what the page shows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from t3d.params import Comparison, Experiment, FactorisationFigure, Product, ServedComparison, Student
from t3d.provenance import lineage
from t3d.reporting.view import DASH

_Row = dict[str, list[str]]
"""Column -> what is said there, each item by itself."""


@dataclass(frozen=True)
class Described:
    """Models or benchmarks: what all have in common, and column -> text of each."""

    common: str
    rows: list[dict[str, str]]


def described(experiment: Experiment, products: Iterable[Product]) -> dict[str, Described]:
    """`teachers`, `students` and `benchmarks` behind some tables and figures."""
    products = list(products)
    compared = [product for product in products if isinstance(product, Comparison)]
    teachers = {p.teacher for p in products if isinstance(p, Comparison | FactorisationFigure)}
    teachers |= {p.autoregressive for p in products if isinstance(p, ServedComparison) and p.autoregressive}
    models = {key for product in products for key in product.students}
    models |= {model for p in compared for row in lineage.rows_of(experiment, p) for model in row.models.values()}
    budgets: dict[str, dict[str, None]] = {}
    for product in compared:
        for _, benchmark, budget in lineage.score_keys_of(experiment, product):
            budgets.setdefault(benchmark, {})[budget] = None
    return {
        "teachers": Described(
            "", [_joined(_teacher(experiment, key)) for key in experiment.teachers if key in teachers]
        ),
        "students": _shared([_student(experiment, key) for key in experiment.students if key in models]),
        "benchmarks": _shared(
            [_benchmark(experiment, key, budgets[key]) for key in experiment.benchmarks if key in budgets]
        ),
    }


def _shared(rows: list[_Row]) -> Described:
    """Say once what all rows say in a column, and leave out columns that are empty then."""
    if len(rows) < 2:
        return Described("", [_joined(row) for row in rows])
    common = {
        name: [item for item in items if all(item in row[name] for row in rows)] for name, items in rows[0].items()
    }
    own = [{name: [item for item in items if item not in common[name]] for name, items in row.items()} for row in rows]
    shown = [name for name in rows[0] if any(row[name] for row in own)]
    said = "; ".join(f"{name.lower()}: {', '.join(items)}" for name, items in common.items() if items)
    return Described(said, [_joined({name: row[name] for name in shown}) for row in own])


def _joined(row: _Row) -> dict[str, str]:
    return {name: ", ".join(items) or DASH for name, items in row.items()}


def _teacher(experiment: Experiment, key: str) -> _Row:
    teacher = experiment.teachers[key]
    where = {
        "shipped": "shipped with the project",
        "pretrain": "pretrained here",
        "hub": f"from the hub ({teacher.hub})",
        "convert": f"converted here from {teacher.initial}",
    }
    said = {"Teacher": teacher.label, "Key": key, "Weights": where[teacher.source], "Decodes in": teacher.dtype}
    return {name: [text] for name, text in said.items()}


def _student(experiment: Experiment, key: str) -> _Row:
    student = experiment.students[key]
    return {
        "Student": [student.label],
        "Key": [key],
        "Objective": _said(student.objective, student.objective.name),
        "States": _said(student.states, student.states.kind),
        "Learns from": [_data(experiment, student)],
        "Optimizer": _said(student.optimizer),
        "Seeds": [", ".join(map(str, student.seeds))],
    }


def _data(experiment: Experiment, student: Student) -> str:
    names = student.trajectories or student.prompts
    kind = "trajectories" if student.trajectories else "gold answers"
    said = f"{kind} of {', '.join(names)}"
    if student.keep is not None:
        said += f", the likeliest {student.keep:.0%}"
    return said if student.initial is None else f"{said}; begins with {student.initial}"


def _benchmark(experiment: Experiment, key: str, budgets: Iterable[str]) -> _Row:
    benchmark = experiment.benchmarks[key]
    count = experiment.prompt_sets[benchmark.prompts].count
    return {
        "Benchmark": [benchmark.label],
        "Key": [key],
        "Questions": [str(count) if count else "all"],
        "Task": [benchmark.task],
        "Decoding": _said(benchmark.sampling) or ["greedy"],
        "At most": [f"{benchmark.max_new_tokens} tokens"],
        "Budgets": [", ".join(budgets)],
    }


def _said(group: Any, first: str = "") -> list[str]:
    """What a parameter group says besides its defaults."""
    chosen = group.model_dump(exclude_defaults=True, exclude={"name", "kind"})
    said = [f"{key.replace('_', ' ')} {value}" for key, value in chosen.items()]
    return [first, *said] if first else said
