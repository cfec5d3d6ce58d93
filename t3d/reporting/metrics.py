"""`results/<experiment>/metrics.json`: the accuracies of the default tables in the form that `dvc metrics` and `dvc
plots` read."""

import json
from pathlib import Path
from typing import Any

from t3d.errors import MissingInputError, reading
from t3d.params import AccuracyTable, Experiment
from t3d.provenance.files import atomic_write
from t3d.provenance.store import making
from t3d.reporting import csv_format


def write(experiment: Experiment, out: Path) -> None:
    """Write table -> row -> tokens per step (or threshold) -> accuracy in percent, the mean over its benchmarks.

    Under `curves` the same numbers stand in a list of records, for plots.

    Raises:
        MissingInputError: a table was not made.
        CorruptArtefactError: it cannot be read.
    """
    content: dict[str, Any] = {}
    curves: list[dict[str, Any]] = []
    for name, table in experiment.tables.items():
        if table.on_request or not isinstance(table, AccuracyTable):
            continue
        path = Path("results", experiment.name, f"{name}.csv")
        if not path.is_file():
            raise MissingInputError(f"{path} is missing: make it first ({making(path)}).")
        with reading(path, f"Make it again ({making(path)} --forcerun {path})."):
            tidy = csv_format.read(path)
            means = tidy[tidy["benchmark"].eq("average")] if len(table.benchmarks) > 1 else tidy
            where = means["tokens_per_step"].fillna(means["threshold"])
            for at, method, accuracy in zip(where, means["method"], means["accuracy"].astype(float), strict=True):
                content.setdefault(name, {}).setdefault(method, {})[f"{at:g}"] = accuracy
                curves.append({"table": name, "method": method, "budget": float(at), "accuracy": accuracy})
    with atomic_write(out) as partial:
        partial.write_text(json.dumps(content | {"curves": curves}, indent=1) + "\n")
