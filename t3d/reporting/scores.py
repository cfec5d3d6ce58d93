"""Reads the scores of a table or figure, and refuses those that do not fit the parameters.

Before a number of a file is used, it was made with the parameters the experiment holds now and its content is what its
manifest lists; then the cells are complete and about the same questions. `tables.py` and `figures/` start here.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from t3d.errors import CorruptArtefactError, DataError
from t3d.params import Budget, Comparison, Experiment
from t3d.provenance import lineage, store
from t3d.provenance.lineage import ScoreKey, TableCell
from t3d.provenance.store import Manifest
from t3d.reporting.inputs import by_artefact


def load(experiment: Experiment, product: Comparison, manifests: list[Path]) -> pd.DataFrame:
    """Read the scores of `product`, one row per table row, seed, benchmark, budget and question.

    Args:
        manifests: `scores/<model>/<benchmark>/<budget>.manifest.json`, one per cell, in any order.

    Returns:
        Columns method (the row's label), seed (0 for the teacher, which has none), benchmark (the column it stands in),
        budget, block_size, tokens_per_step (not a number for dynamic budgets), threshold (not a number for static
        ones), id, correct, response_tokens, denoising_steps. Sorted as the experiment lists them; an autoregressive row
        comes last, if its scores are among the manifests.

    Raises:
        ParameterError: a score, or what it was made from, was made with other parameters.
        CorruptArtefactError: a file does not match its manifest, or contradicts it.
        MissingInputError: a file or a cell is not there.
        DataError: a manifest is not about a cell of `product`, or models were asked different questions.
    """
    given = needed(experiment, product, manifests)
    found = {cell: _read(cell, m) for cell, m in given.items()}
    parts = []
    for place in _places(experiment, product, given):
        budget = Budget.parse(place.budget)
        keys = _keys(place) | {
            "block_size": budget.block_size,
            "tokens_per_step": budget.tokens_per_step or float("nan"),
            "threshold": budget.threshold or float("nan"),
        }
        parts.append(pd.DataFrame(keys | dict(found[place.cell])))
    frame = pd.concat(parts, ignore_index=True)
    _check_questions(frame)
    return frame


def load_totals(experiment: Experiment, product: Comparison, manifests: list[Path]) -> pd.DataFrame:
    """Read what each score says of its whole cell, one row per table row, seed, benchmark and budget.

    Args:
        manifests: as in `load`.

    Returns:
        Columns method, seed, benchmark, budget, those of the score's JSON (n, correct, response_tokens,
        denoising_steps, commit_passes, tokens_per_step, tokens_per_forward) and, from its receipt, those of the
        decoding's speed: tokens_per_second, batch_size, device, and on a GPU gpu_jobs, how many jobs were on it at
        once; of an autoregressive model also engine and one_at_a_time (a dict of questions, tokens_per_second,
        latency_seconds).

    Raises:
        MissingInputError: a receipt is not there.
        As `load`.
    """
    found = needed(experiment, product, manifests)
    rows = []
    for place in _places(experiment, product, found):
        manifest = found[place.cell]
        totals = json.loads(manifest.file(".json").read_text())
        rows.append(totals | store.read_receipt(manifest)["decoding"] | _keys(place))
    return pd.DataFrame(rows)


def _keys(place: TableCell) -> dict[str, object]:
    return {"method": place.label, "seed": place.seed, "benchmark": place.column, "budget": place.budget}


def _places(experiment: Experiment, product: Comparison, found: dict[ScoreKey, Manifest]) -> list[TableCell]:
    served = [place for place in lineage.autoregressive_cells(experiment, product) if place.cell in found]
    return [*lineage.cells_of(experiment, product), *served]


def needed(experiment: Experiment, product: Comparison, manifests: Iterable[Path]) -> dict[ScoreKey, Manifest]:
    """The manifest of every cell of `product`, and of its autoregressive row if any is given; raises as `load`."""
    manifests = list(manifests)
    cells = lineage.score_keys_of(experiment, product)
    served = [place.cell for place in lineage.autoregressive_cells(experiment, product)]
    if any(store.read(path).artefact == "/".join(("scores", *cell)) for path in manifests for cell in served):
        cells += served
    return by_cell(experiment, cells, manifests, kind="scores")


def by_cell(
    experiment: Experiment, cells: list[ScoreKey], manifests: Iterable[Path], kind: str
) -> dict[ScoreKey, Manifest]:
    """The manifest of every cell; raises as `by_artefact`.

    Args:
        cells: what is needed.
        manifests: of artefacts `<kind>/<model>/<benchmark>/<budget>`, in any order.
        kind: `scores` or `answers`.
    """
    names = {cell: "/".join((kind, *cell)) for cell in cells}
    found = by_artefact(experiment, names.values(), manifests, kind)
    return {cell: found[name] for cell, name in names.items()}


def _read(cell: ScoreKey, manifest: Manifest) -> pd.DataFrame:
    summary = json.loads(manifest.file(".json").read_text())
    columns = ["id", "correct", "response_tokens", "denoising_steps"]
    answers = pd.read_parquet(manifest.file(".parquet"), columns=columns)
    said = tuple(summary[key] for key in ("model", "benchmark", "budget", "n", "correct"))
    holds = (*cell, len(answers), int(answers["correct"].sum()))
    if said != holds:
        raise CorruptArtefactError(
            f"{manifest.path}: the .json says {said}, name and .parquet say {holds}. Delete it and run its stage again."
        )
    return answers


def _check_questions(frame: pd.DataFrame) -> None:
    """A paired test needs the same questions from everyone, each once."""
    for benchmark, of_benchmark in frame.groupby("benchmark", sort=False):
        expected: set[str] | None = None
        for (method, seed, budget), answers in of_benchmark.groupby(["method", "seed", "budget"], sort=False):
            ids = set(answers["id"])
            expected = ids if expected is None else expected
            if ids != expected or len(ids) != len(answers):
                raise DataError(
                    f"{benchmark} at {budget}, {method} seed {seed}: {len(answers)} answers to {len(ids)} questions, "
                    f"{len(ids ^ expected)} of them not the {len(expected)} that the others answered. Every model "
                    "answers each question once; make these answers again."
                )
