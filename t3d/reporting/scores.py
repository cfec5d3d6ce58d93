"""Reads the scores of a table or figure, and refuses those that do not fit the parameters.

Before a number of a file is used, it was made with the parameters the experiment holds now and its content is what its
manifest lists; then the cells are complete and about the same questions. `tables.py` and `figures.py` start here.
"""

import json
from pathlib import Path

import pandas as pd

from t3d import receipts
from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError
from t3d.params import AccuracyFigure, AccuracyTable, Budget, Experiment
from t3d.receipts import MANIFEST, Manifest

Cell = tuple[str, str, str]
"""Model, benchmark, budget."""


def methods_of(experiment: Experiment, product: AccuracyTable | AccuracyFigure) -> dict[str, str]:
    """Key -> label of what a table or figure compares: its teacher, then its students in the experiment's order.

    Raises:
        ParameterError: two of them have the same label, so that a reader could not tell them apart.
    """
    methods = {product.teacher: experiment.teachers[product.teacher].label}
    methods |= {key: student.label for key, student in experiment.students.items() if key in product.students}
    labels = list(methods.values())
    for key, label in methods.items():
        if labels.count(label) > 1:
            raise ParameterError(
                f"params/{experiment.name}.yaml: {key} shares its label {label!r} with another method."
            )
    return methods


def load(experiment: Experiment, product: AccuracyTable | AccuracyFigure, manifests: list[Path]) -> pd.DataFrame:
    """Read the scores of `product`, one row per model, benchmark, budget and question.

    Args:
        manifests: `scores/<model>/<benchmark>/<budget>.manifest.json`, one per cell, in any order.

    Returns:
        Columns method (label), student (key; the teacher's for the teacher), seed (0 for the teacher, which has none),
        benchmark, budget, block_size, tokens_per_step, id, correct. Sorted as the experiment lists them.

    Raises:
        ParameterError: a score, or what it was made from, was made with other parameters.
        CorruptArtefactError: a file does not match its manifest, or contradicts it.
        MissingInputError: a file or a cell is not there.
        DataError: a manifest is not about a cell of `product`, or models were asked different questions.
    """
    needed = [
        (model, benchmark, str(Budget.parse(budget)))
        for benchmark in product.benchmarks
        for model in experiment.models_of(product)
        for budget in product.budgets
    ]
    found: dict[Cell, Manifest] = {}
    for path in manifests:
        manifest = receipts.read(path, kind="scores")
        receipts.check_recipes(manifest, experiment)
        manifest.check(contents=True)
        _, model, benchmark, budget = manifest.artefact.split("/")
        cell = (model, benchmark, budget)
        if cell not in needed or cell in found:
            raise DataError(f"{path}: {manifest.artefact} is not asked for, or given twice. Leave it out.")
        found[cell] = manifest
    missing = [_path(experiment, cell) for cell in needed if cell not in found]
    if missing:
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise MissingInputError(f"{missing[0]} is not among the scores{more}: make it first (snakemake {missing[0]}).")
    frame = pd.concat(
        [_rows(experiment, product, cell, found[cell]) for cell in dict.fromkeys(needed)], ignore_index=True
    )
    _check_questions(frame)
    return frame


def _path(experiment: Experiment, cell: Cell) -> Path:
    model, benchmark, budget = cell
    return Path("data", experiment.name, "scores", model, benchmark, budget + MANIFEST)


def _rows(
    experiment: Experiment, product: AccuracyTable | AccuracyFigure, cell: Cell, manifest: Manifest
) -> pd.DataFrame:
    model, benchmark, budget = cell
    summary = json.loads(manifest.file(".json").read_text())
    answers = pd.read_parquet(manifest.file(".parquet"), columns=["id", "correct"])
    said = tuple(summary[key] for key in ("model", "benchmark", "budget", "n", "correct"))
    holds = (*cell, len(answers), int(answers["correct"].sum()))
    if said != holds:
        raise CorruptArtefactError(
            f"{manifest.path}: the .json says {said}, name and .parquet say {holds}. Delete it and run its stage again."
        )
    student, seed = experiment.runs.get(model, (model, 0))
    parsed = Budget.parse(budget)
    columns = {
        "method": methods_of(experiment, product)[student],
        "student": student,
        "seed": seed,
        "benchmark": benchmark,
        "budget": budget,
        "block_size": parsed.block_size,
        "tokens_per_step": parsed.tokens_per_step,
        "id": answers["id"],
        "correct": answers["correct"],
    }
    return pd.DataFrame(columns)


def _check_questions(frame: pd.DataFrame) -> None:
    """A paired test needs the same questions from everyone, each once."""
    for benchmark, of_benchmark in frame.groupby("benchmark", sort=False):
        expected: set[str] | None = None
        for (student, seed, budget), answers in of_benchmark.groupby(["student", "seed", "budget"], sort=False):
            ids = set(answers["id"])
            expected = ids if expected is None else expected
            if ids != expected or len(ids) != len(answers):
                raise DataError(
                    f"{benchmark} at {budget}, {student} seed {seed}: {len(answers)} answers to {len(ids)} questions, "
                    f"{len(ids ^ expected)} of them not the {len(expected)} that the others answered. Every model "
                    "answers each question once; make these answers again."
                )
