"""Tables: a tidy CSV first, Markdown and LaTeX of the same numbers beside it.

    t3d table --experiment pocket --name table1 --scores ... --out results/pocket/table1.csv

Each kind of table has a module, `accuracy.py`, `decoding.py`, `parallelism.py`: its tidy rows, and its view of them.
Where numbers come from and when they are refused: `scores.py`. How sure they are: `statistics.py`. What a view is:
`view.py`; how it is written: `renderings.py`, and on the page `page/report.html.j2`.
"""

import filecmp
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError, reading
from t3d.params import AccuracyTable, DecodingTable, Experiment
from t3d.provenance import lineage
from t3d.provenance.files import atomic_write
from t3d.provenance.store import making, manifest_path
from t3d.reporting import renderings, scores
from t3d.reporting.accuracy import accuracy_table, accuracy_view
from t3d.reporting.csv_format import to_csv
from t3d.reporting.decoding import decoding_table, decoding_view
from t3d.reporting.parallelism import parallelism_table, parallelism_view
from t3d.reporting.view import View

REPORTED = Path("params", "reported.csv")
"""The paper's numbers, in the working directory as every experiment file."""
_TYPES: dict[str, type] = dict.fromkeys(("model", "method", "benchmark", "remasking", "metric"), str)
_TYPES |= dict.fromkeys(("table", "block_size", "tokens_per_step", "value"), float)


def write(experiment: Experiment, name: str, manifests: list[Path], out_csv: Path) -> None:
    """Write table `name` to `out_csv`, and its Markdown and LaTeX beside it, all three or none.

    Equal scores give equal bytes.

    Args:
        manifests: of the scores it needs, see `scores.load`.

    Raises:
        ParameterError: the experiment has no such table, or scores were made with other parameters.
        MissingInputError, CorruptArtefactError, DataError: as `scores.load`.
    """
    if out_csv.suffix != ".csv":
        raise ParameterError(f"--out must end in .csv, found {out_csv}.")
    if name not in experiment.tables:
        known = ", ".join(experiment.tables) or "none"
        raise ParameterError(f"params/{experiment.name}.yaml has no table {name!r}. Tables there: {known}.")
    table = experiment.tables[name]
    frame, totals = scores.load(experiment, table, manifests)
    if isinstance(table, AccuracyTable):
        tidy = accuracy_table(experiment, table, frame, _reported(name, table.paper_table))
    elif isinstance(table, DecodingTable):
        tidy = decoding_table(experiment, table, totals, _reported(name, table.paper_table))
    else:
        tidy = parallelism_table(experiment, table, frame, totals)
    shown = view_of(experiment, name, tidy, totals)
    contents = {".csv": to_csv(tidy), ".md": renderings.markdown(shown), ".tex": renderings.latex(shown)}
    with ExitStack() as stack:
        # All are written before the first is replaced, and the last to be left is the first: a CSV has its two others.
        partials = [stack.enter_context(atomic_write(out_csv.with_suffix(suffix))) for suffix in contents]
        for partial, content in zip(partials, contents.values(), strict=True):
            partial.write_text(content, encoding="utf-8", newline="\n")


def view_of(experiment: Experiment, name: str, tidy: pd.DataFrame, speeds: pd.DataFrame) -> View:
    """Table `name` as a reader sees it.

    Args:
        tidy: its rows, as `csv_format.read` has them.
        speeds: see `view.about_speed`.

    Raises:
        KeyError, AttributeError: the rows or columns are not those of the experiment's table.
    """
    table = experiment.tables[name]
    if isinstance(table, AccuracyTable):
        return accuracy_view(experiment, name, table, tidy)
    if isinstance(table, DecodingTable):
        return decoding_view(experiment, name, table, tidy, speeds)
    return parallelism_view(experiment, name, table, tidy, speeds)


def _reported(name: str, paper_table: int | None) -> pd.DataFrame | None:
    if paper_table is None:
        return None
    if not REPORTED.is_file():
        raise MissingInputError(f"{REPORTED} is missing, though tables.{name}.paper_table asks for its values.")
    with reading(REPORTED, f"Restore it (git checkout {REPORTED})."):
        reported = pd.read_csv(REPORTED, dtype=_TYPES)[list(_TYPES)]
        lacking = reported[["table", "model", "method", "benchmark", "metric", "value"]].isna()
        if reported.empty or lacking.any(axis=None):
            raise ValueError("a row, or all, lack values")
        return reported


def check_all(experiment: Experiment) -> int:
    """Check the default tables, each by `check`; returns how many."""
    names = [name for name, table in experiment.tables.items() if not table.on_request]
    for name in names:
        check(experiment, name)
    return len(names)


def check(experiment: Experiment, name: str) -> None:
    """Check that a table on disk is the one its scores give, byte by byte.

    Raises:
        T3DError: it is not, or a score is missing or does not fit the parameters.
    """
    path = Path("results") / experiment.name / f"{name}.csv"
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: make it first ({making(path)}).")
    material = lineage.inputs_of_target(experiment, experiment.tables[name], here=True)
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        write(experiment, name, [manifest_path(experiment, artefact) for artefact in material], again)
        if not filecmp.cmp(path, again, shallow=False):
            raise CorruptArtefactError(f"{path} is not what its scores give. Delete it, then run {making(path)}.")
