"""What was run, in words: teachers, students, benchmarks, budgets of what the page shows."""

from collections.abc import Iterable
from typing import Any

from t3d.params import Comparison, Experiment, FactorisationFigure, Product, ServedTable, Student
from t3d.provenance import lineage


def described(experiment: Experiment, products: Iterable[Product]) -> dict[str, list[dict[str, str]]]:
    """`teachers`, `students` and `benchmarks` behind some tables and figures: column -> text, one dict per row."""
    products = list(products)
    compared = [product for product in products if isinstance(product, Comparison)]
    teachers = {p.teacher for p in products if isinstance(p, Comparison | FactorisationFigure)}
    teachers |= {p.autoregressive for p in products if isinstance(p, ServedTable) and p.autoregressive}
    models = {key for product in products for key in product.students}
    models |= {model for p in compared for row in lineage.rows_of(experiment, p) for model in row.models.values()}
    budgets: dict[str, dict[str, None]] = {}
    for product in compared:
        for _, benchmark, budget in lineage.score_keys_of(experiment, product):
            budgets.setdefault(benchmark, {})[budget] = None
    return {
        "teachers": [_teacher(experiment, key) for key in experiment.teachers if key in teachers],
        "students": [_student(experiment, key) for key in experiment.students if key in models],
        "benchmarks": [_benchmark(experiment, key, budgets[key]) for key in experiment.benchmarks if key in budgets],
    }


def _teacher(experiment: Experiment, key: str) -> dict[str, str]:
    teacher = experiment.teachers[key]
    where = {
        "shipped": "shipped with the project",
        "pretrain": "pretrained here",
        "hub": f"from the hub ({teacher.hub})",
        "convert": f"converted here from {teacher.initial}",
    }
    return {"Teacher": teacher.label, "Key": key, "Weights": where[teacher.source], "Decodes in": teacher.dtype}


def _student(experiment: Experiment, key: str) -> dict[str, str]:
    student = experiment.students[key]
    return {
        "Student": student.label,
        "Key": key,
        "Objective": _said(student.objective, student.objective.name),
        "States": _said(student.states, student.states.kind),
        "Learns from": _data(experiment, student),
        "Optimizer": _said(student.optimizer),
        "Seeds": ", ".join(map(str, student.seeds)),
    }


def _data(experiment: Experiment, student: Student) -> str:
    names = student.trajectories or student.prompts
    kind = "trajectories" if student.trajectories else "gold answers"
    said = f"{kind} of {', '.join(names)}"
    if student.keep is not None:
        said += f", the likeliest {student.keep:.0%}"
    return said if student.initial is None else f"{said}; begins with {student.initial}"


def _benchmark(experiment: Experiment, key: str, budgets: Iterable[str]) -> dict[str, str]:
    benchmark = experiment.benchmarks[key]
    count = experiment.prompt_sets[benchmark.prompts].count
    return {
        "Benchmark": benchmark.label,
        "Key": key,
        "Questions": str(count) if count else "all",
        "Task": benchmark.task,
        "Decoding": _said(benchmark.sampling) or "greedy",
        "At most": f"{benchmark.max_new_tokens} tokens",
        "Budgets": ", ".join(budgets),
    }


def _said(group: Any, first: str = "") -> str:
    """What a parameter group says besides its defaults."""
    chosen = group.model_dump(exclude_defaults=True, exclude={"name", "kind"})
    said = [f"{key.replace('_', ' ')} {value}" for key, value in chosen.items()]
    return ", ".join([first, *said] if first else said)
