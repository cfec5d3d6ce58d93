"""`t3d trace`: from a cell of a table back to everything it was made from."""

import filecmp
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from statistics import mean
from typing import Any

from t3d import params
from t3d.errors import DataError, MissingInputError, ParameterError
from t3d.params import Experiment
from t3d.provenance import lineage, records, store
from t3d.provenance.store import manifest_path
from t3d.provenance.totals import Totals, totals_of

_WITHOUT_VALUE = re.compile(r" --[\w-]+ (?= )")


@dataclass(frozen=True)
class Origin:
    """How one artefact was made. None stands for what is not known here because it was not fetched."""

    artefact: str
    recipe: str | None
    """Recipe digest."""
    manifest: str | None
    """sha256 of the manifest, which lists the sha256 of every file."""
    git_commit: str | None
    device: str | None
    finished: str | None
    seconds: float | None
    seeds: dict[str, int] | None
    command: str | None


@dataclass(frozen=True)
class Traced:
    """A score and everything behind it."""

    correct: int
    n: int
    origins: list[Origin]
    """The score first."""


def table_of(path: Path, experiment: str | None) -> tuple[Experiment, str]:
    """Experiment and table of `results/table1.csv` or `results/<experiment>/table1.csv`.

    `results/table1.csv` is a copy: its content tells whose table it is.

    Raises:
        ParameterError: there is no such experiment or table, or the copy is no experiment's table.
    """
    if path.suffix != ".csv" or not path.parent.name:
        raise ParameterError(f"{path} is no table; name results/table1.csv or results/<experiment>/table1.csv.")
    if experiment is None:
        experiment = path.parent.name if path.parent.name != "results" else _experiment_of_copy(path)
    found = params.find(experiment)
    if path.stem not in found.tables:
        raise ParameterError(f"experiment {found.name} has no table {path.stem!r}: {', '.join(found.tables)}.")
    return found, path.stem


def _experiment_of_copy(path: Path) -> str:
    """The experiment whose table a file below `results/` is a copy of; the default one if there is no such file."""
    if not path.is_file():
        return "demo"
    tables = sorted(path.parent.glob(f"*/{path.name}"))
    same = [table.parent.name for table in tables if filecmp.cmp(table, path, shallow=False)]
    if not same:
        others = ", ".join(str(table) for table in tables) or f"results/<experiment>/{path.name}"
        raise ParameterError(f"{path} is a copy of no experiment's table. Trace one of these: {others}.")
    return same[0]


def cells(experiment: Experiment, table: str) -> list[str]:
    """Names of a table's cells, `row/column/budget`, with the keys of student and benchmark where they have some."""
    places = lineage.all_cells_of(experiment, experiment.tables[table])
    return list(dict.fromkeys(name_of(experiment, place) for place in places))


def index(experiment: Experiment, table: str) -> dict[str, str]:
    """Cell of a table -> its accuracy and how many answers are right of how many; or `not here`."""
    scores: dict[str, list[Totals]] = {}
    found = {}
    for place in lineage.all_cells_of(experiment, experiment.tables[table]):
        cell = name_of(experiment, place)
        try:
            manifest = store.read(manifest_path(experiment, "/".join(["scores", *place.cell])))
            scores.setdefault(cell, []).append(totals_of(manifest))
            found[cell] = said(scores[cell])
        except MissingInputError:
            found[cell] = "not here"
    return found


def said(scores: Sequence["Traced | Totals"]) -> str:
    """Accuracy over seeds and the counts behind it."""
    seeds = f" ({len(scores)} seeds)" if len(scores) > 1 else ""
    counts = f"{sum(score.correct for score in scores)} of {sum(score.n for score in scores)}"
    return f"{accuracy(scores):.1f} %, {counts} right{seeds}"


def accuracy(scores: Iterable["Traced | Totals"]) -> float:
    """In percent, the mean over seeds, which answer the same questions."""
    return mean(100 * score.correct / score.n for score in scores)


def trace(experiment: Experiment, table: str, cell: str, commands: dict[str, str] | None = None) -> dict[str, Traced]:
    """Everything behind a cell.

    Args:
        experiment: whose table it is.
        table: its key.
        cell: one of `cells`.
        commands: the result of `commands_of`, when many cells are traced; read anew by default.

    Returns:
        Model on disk (one per seed) -> its score, and the origins of that and of all that it was made from.

    Raises:
        DataError: there is no such cell.
        T3DError: the score is not here, or damaged.
    """
    places = lineage.all_cells_of(experiment, experiment.tables[table])
    places = [place for place in places if name_of(experiment, place) == cell]
    if not places:
        known = cells(experiment, table)
        near = ", ".join(get_close_matches(cell, known, n=3, cutoff=0.0))
        raise DataError(
            f"{table} has no cell {cell!r}. Nearest of its {len(known)}: {near}. "
            f"t3d trace results/{experiment.name}/{table}.csv lists all."
        )
    commands = commands_of() if commands is None else commands
    return {place.cell[0]: _chain(experiment, "/".join(["scores", *place.cell]), commands) for place in places}


def name_of(experiment: Experiment, place: lineage.TableCell) -> str:
    """Name of the cell that a place of a table shows."""
    run = place.cell[0]
    row = run if run in experiment.teachers else lineage.runs(experiment)[run][0]
    # A row that is decoded in another way is known by its benchmark.
    return "/".join([row, place.cell[1], place.budget])


def commands_of() -> dict[str, str]:
    """Output -> command line, of what Snakemake made here and of what was pulled; without options that have no value,
    after which rules leave two spaces."""
    return {output: _WITHOUT_VALUE.sub("", record["shellcmd"]) for output, record in records.collect().items()}


def _chain(experiment: Experiment, score: str, commands: dict[str, str]) -> Traced:
    manifest = store.read(manifest_path(experiment, score))
    totals = totals_of(manifest)
    digests: dict[str, str] = {}
    chain = []
    # What is made from an artefact comes before it, and names its digest if it is not here.
    for artefact in reversed(lineage.origins_of(experiment, [score])):
        path = manifest_path(experiment, artefact)
        if path.is_file():
            digests |= {artefact: store.sha256(path)} | store.read(path).inputs
        try:
            receipt = store.read_receipt(store.read(path))
        except MissingInputError:
            receipt = {}
        values = receipt.get("params", {})
        chain.append(
            Origin(
                artefact,
                manifest.recipes.get(artefact),
                digests.get(artefact),
                **{key: receipt.get(key) for key in ("git_commit", "device", "finished", "seconds")},
                seeds={key: value for key, value in values.items() if key.endswith("seed")} if receipt else None,
                command=commands.get(str(path)),
            )
        )
    return Traced(totals.correct, totals.n, chain)


def to_json(found: dict[str, Traced]) -> str:
    """The origins as JSON."""
    return json.dumps({model: asdict(traced) for model, traced in found.items()}, indent=1)


def to_text(cell: str, found: dict[str, Traced], command: str | None = None) -> str:
    """The number, then the origins for people, one block per artefact; `command` fetches what is not here."""
    lines = [f"{cell}: {said(list(found.values()))}", ""]
    for model, traced in found.items():
        title = f"{model}: {traced.correct} of {traced.n} right"
        lines.append(f"{title}\n{'=' * len(title)}")
        for origin in traced.origins:
            lines.append(origin.artefact)
            known = [(key, value) for key, value in asdict(origin).items() if key != "artefact"]
            lines += [f"    {key:<10} {_plain(value)}" for key, value in known if value is not None]
            if missing := [key for key, value in known if value is None]:
                lines.append(f"    not here   {', '.join(missing)}" + (f" ({command})" if command else ""))
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) or "-" if isinstance(value, dict) else str(value)
