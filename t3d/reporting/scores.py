"""Reads the scores of a table or figure, and refuses those that do not fit the parameters.

Before a number of a file is used, it was made with the parameters the experiment holds now and its content is what its
manifest lists; then the cells are complete and about the same questions. `tables.py` and `figures/` start here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from t3d.errors import CorruptArtefactError, DataError
from t3d.params import Budget, Comparison, Experiment
from t3d.params.json_files import read_json
from t3d.provenance import lineage, store
from t3d.provenance.lineage import ScoreKey
from t3d.provenance.parquet import VERDICTS, of_artefact
from t3d.provenance.store import Manifest
from t3d.provenance.totals import Totals
from t3d.reporting.inputs import by_artefact


def load(experiment: Experiment, product: Comparison, manifests: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the scores of `product`. Each file is read and compared with its manifest once.

    Args:
        manifests: `scores/<model>/<benchmark>/<budget>.manifest.json`, one per cell, in any order.

    Returns:
        Two frames, sorted as the experiment lists rows, seeds, benchmarks and budgets; an autoregressive row comes
        last, if its scores are among the manifests. Both have columns method (the row's label), seed (0 for the
        teacher, which has none), benchmark (the column it stands in) and budget.

        Answers, one row per question: block_size, tokens_per_step (missing for dynamic budgets), threshold (missing for
        static ones), id, correct, response_tokens, denoising_steps.

        Totals, one row per score: those of its JSON (n, correct, response_tokens, denoising_steps, commit_passes,
        tokens_per_step, tokens_per_forward) and, from its receipt, the decoding's speed: tokens_per_second, batch_size,
        device, and on a GPU gpu_jobs, how many jobs were on it at once; of an autoregressive model also engine and
        one_at_a_time (a dict of questions, tokens_per_second, latency_seconds).

    Raises:
        ParameterError: a score, or what it was made from, was made with other parameters.
        CorruptArtefactError: a file does not match its manifest, or contradicts it.
        MissingInputError: a file or a cell is not there.
        DataError: a manifest is not about a cell of `product`, or models were asked different questions.
    """
    optional = lineage.autoregressive_cells(experiment, product)
    given = {store.read(path).artefact for path in manifests} if optional else set()
    places = [*lineage.cells_of(experiment, product), *(p for p in optional if "/".join(("scores", *p.cell)) in given)]
    cells = list(dict.fromkeys(place.cell for place in places))
    scores = {cell: _read(cell, m) for cell, m in by_cell(experiment, cells, manifests, kind="scores").items()}
    answers = [scores[place.cell][0] for place in places]
    keys = [
        {"method": place.label, "seed": place.seed, "benchmark": place.column, "budget": place.budget}
        for place in places
    ]
    columns = pd.DataFrame(of | setting(Budget.parse(place.budget)) for place, of in zip(places, keys, strict=True))
    repeated = columns.loc[columns.index.repeat([len(of_questions) for of_questions in answers])]
    frame = pd.concat([repeated.reset_index(drop=True), pd.concat(answers, ignore_index=True)], axis="columns")
    _check_questions(frame)
    return frame, pd.DataFrame([scores[place.cell][1] | of for place, of in zip(places, keys, strict=True)])


def setting(budget: Budget) -> dict[str, float | None]:
    """The columns of a budget; one of the last two is None."""
    return {name: getattr(budget, name) for name in ("block_size", "tokens_per_step", "threshold")}


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
    by_name = by_artefact(experiment, names.values(), manifests, kind)
    return {cell: by_name[name] for cell, name in names.items()}


def _read(cell: ScoreKey, manifest: Manifest) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The answers of a score by question, and its totals with the decoding's speed."""
    files = {Path(name).suffix: manifest.path.parent / name for name in manifest.files}
    if files.keys() != {".json", ".parquet"}:
        listed = ", ".join(manifest.files) or "no file"
        raise CorruptArtefactError(
            f"{manifest.path} lists {listed}; a score is a .json and a .parquet. Delete it and run its stage again."
        )
    # This compares both files with the manifest.
    answers = of_artefact(manifest, VERDICTS, ["id", "correct", "response_tokens", "denoising_steps"]).to_pandas()
    summary = vars(read_json(files[".json"], Totals))
    said = tuple(summary[key] for key in ("model", "benchmark", "budget", "n", "correct"))
    holds = (*cell, len(answers), int(answers["correct"].sum()))
    if said != holds:
        raise CorruptArtefactError(
            f"{manifest.path}: the .json says {said}, name and .parquet say {holds}. Delete it and run its stage again."
        )
    return answers, summary | store.decoding_of(manifest)


def _check_questions(frame: pd.DataFrame) -> None:
    """A paired test needs the same questions from everyone, each once."""
    # Numbers are compared in a tenth of the time of texts.
    numbered = frame[["method", "seed", "budget"]].assign(id=pd.factorize(frame["id"])[0])
    for benchmark, of_benchmark in numbered.groupby(frame["benchmark"], sort=False):
        expected: set[int] | None = None
        for (method, seed, budget), answers in of_benchmark.groupby(["method", "seed", "budget"], sort=False)["id"]:
            ids = set(answers.tolist())
            expected = ids if expected is None else expected
            if ids != expected or len(ids) != len(answers):
                raise DataError(
                    f"{benchmark} at {budget}, {method} seed {seed}: {len(answers)} answers to {len(ids)} questions, "
                    f"{len(ids ^ expected)} of them not the {len(expected)} that the others answered. Every model "
                    "answers each question once; make these answers again."
                )
