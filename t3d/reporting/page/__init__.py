"""The report: one HTML file of an experiment that needs no network and no server.

    t3d report --experiment demo --out results/report.html

It shows what has been made and makes nothing itself: views of tables from their CSV, figures, costs from receipts
(`costs.py`), what each number was made from (`origins.py`), and recorded answers step by step (`viewer.py`), or the
published texts of answers (`published.py`). The page itself is `report.html.j2` with `report.css`, `report.js` and
`report.texts.js`. Where something is missing the page says what fetches or makes it.
"""

from base64 import b64encode
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from t3d.errors import MissingInputError, T3DError, reading
from t3d.params import AccuracyFigure, AccuracyTable, Comparison, Experiment, Product
from t3d.provenance import lineage, remote, store, texts, verify
from t3d.provenance.files import atomic_write
from t3d.reporting import csv_format
from t3d.reporting.accuracy import AVERAGE, RELATIVE
from t3d.reporting.page import costs, origins, published, setup, viewer
from t3d.reporting.tables import view_of
from t3d.reporting.view import DASH, POINTS, View, is_ours

FOLDER = Path(__file__).parent
_DOWNLOADS = {".csv": "text/csv", ".tex": "text/plain", ".md": "text/plain"}


def write(experiment: Experiment, out: Path) -> None:
    """Write the report of everything of an experiment that is in `results/`; equal files give equal bytes.

    Raises:
        MissingInputError: no table of it is there.
    """
    folder = Path("results", experiment.name)
    tables = {name: folder / f"{name}.csv" for name in experiment.tables}
    tables = {name: path for name, path in tables.items() if path.is_file()}
    if not tables:
        raise MissingInputError(f"{folder} holds no table: make one first ({store.making_all(experiment)}).")
    figures = {name: folder / "figures" / f"{name}.png" for name in experiment.figures}
    figures = {name: path for name, path in figures.items() if path.is_file()}
    products = [
        *(experiment.tables[name] for name in tables),
        *(experiment.figures[name] for name in figures),
    ]
    views, unfit = _views(experiment, tables)
    provenance = origins.of_views(experiment, views)
    answers, published_texts, why = _answers(experiment, _main(experiment, list(tables)))
    known = lineage.targets(experiment, on_request=True)
    made = {f"{name}.csv" for name in tables} | {f"figures/{name}.pdf" for name in figures}
    shown = {view.name: view for view in views}
    leading = _main(experiment, list(tables))
    first = next((view for name, view in shown.items() if experiment.tables[name] is leading), None)
    page = _template().render(
        experiment=experiment,
        first=first.name if first else "",
        result=_result(first) if first else "",
        leads=next((name for name in figures if isinstance(experiment.figures[name], AccuracyFigure)), ""),
        renamed={RELATIVE: "Change, points"},
        setup=setup.described(experiment, products),
        tables=[
            {
                "view": view,
                "path": tables[view.name].as_posix(),
                "making": store.making(tables[view.name]),
                "outdated": origins.outdated(view, provenance),
                "kept": _kept(experiment, experiment.tables[view.name]),
                "ours": [label for _, rows in view.groups for label, _ in rows if is_ours(label)],
                "downloads": _downloads(experiment, tables[view.name]),
                "compared": any(cell.reported for cell in view.cells()),
            }
            for view in views
        ],
        figures=[
            {
                "name": name,
                "caption": experiment.figures[name].caption,
                "image": _data("image/png", path),
                "width": _width(path),
                "kept": _kept(experiment, experiment.figures[name]),
            }
            for name, path in figures.items()
        ],
        costs=costs.of_products(experiment, products),
        unfit=unfit,
        unmade=[name for name in known if name not in made],
        making=lambda name: store.making(folder / name),
        making_all=store.making_all(experiment),
        no_answers=why,
        pull=remote.command(experiment.name),
        provenance=provenance,
        answers=answers,
        texts=published_texts,
        points=POINTS,
        css=(FOLDER / "report.css").read_text(encoding="utf-8"),
        js="".join((FOLDER / name).read_text(encoding="utf-8") for name in _scripts(published_texts)),
    )
    with atomic_write(out) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


def _result(view: View) -> str:
    """One sentence of result, from the averages of an accuracy table; empty for another table."""
    average = AVERAGE.capitalize()
    if average not in view.columns or len(view.common) != 1:
        return ""
    place = view.columns.index(average)
    # Rows without a budget, the autoregressive ones, stand apart.
    groups = [(common[0], dict(rows)) for common, rows in view.groups if common[0] != DASH]
    base = next(iter(groups[0][1]), "")
    methods = [label for label in groups[0][1] if is_ours(label)] or list(groups[0][1])[-1:]
    said = []
    for method in dict.fromkeys([*methods, base]):
        values = [rows[method][place].text if method in rows else DASH for _, rows in groups]
        said.append(f"{method} ({_listed(values)} %)")
    heads = _listed([head for head, _ in groups])
    unit = view.common[0].lower()
    at = f"{heads} {unit.replace('tokens', 'token') if heads == '1' else unit}"
    return f"Right answers, averaged over the columns of {view.name}, at {at}: {', '.join(said)}."


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _kept(experiment: Experiment, product: Product) -> str:
    """Why a product is not of this run: not all it was made from is here. Empty if all is."""
    missing = len(verify.missing_of(experiment, product, here=True))
    count = len(lineage.inputs_of_target(experiment, product, here=True))
    return f"{missing} of the {count} artefacts it was made from are not on this machine" if missing else ""


def _width(png: Path) -> int:
    """Pixels of the page: a figure of panels fills it, and letters are as large as the text."""
    return round(0.8 * int.from_bytes(png.read_bytes()[16:20]))


def _views(experiment: Experiment, tables: dict[str, Path]) -> tuple[list[View], list[str]]:
    """The tables, and what is wrong with those whose rows or columns are not the experiment's."""
    views, unfit = [], []
    for name, path in tables.items():
        fault = f"does not fit tables.{name} of params/{experiment.name}.yaml as it is now"
        try:
            with reading(path, f"Make it again: {store.making(path)}", fault=fault):
                speeds = _speeds(experiment, experiment.tables[name])
                views.append(view_of(experiment, name, csv_format.read(path), speeds))
        except T3DError as error:
            unfit.append(str(error))
    return views, unfit


def _speeds(experiment: Experiment, table: Comparison) -> pd.DataFrame:
    """What the receipts of a table's scores that are here say of the decoding; no accuracy table speaks of it."""
    if isinstance(table, AccuracyTable):
        return pd.DataFrame()
    artefacts = ["/".join(("scores", *place.cell)) for place in lineage.all_cells_of(experiment, table)]
    here = [r for artefact in artefacts if (r := store.find_receipt(experiment, artefact)) is not None]
    return pd.DataFrame([receipt["decoding"] for receipt in here if "decoding" in receipt])


def _main(experiment: Experiment, there: list[str]) -> Comparison:
    """The table that the page opens with: a default one, of accuracies, with a row of T3D, Table 1 before others."""

    def rank(name: str) -> tuple[bool, ...]:
        table = experiment.tables[name]
        lacks_ours = not any(is_ours(row.label) for row in lineage.rows_of(experiment, table))
        return table.on_request, not isinstance(table, AccuracyTable), lacks_ours, name != "table1"

    return experiment.tables[min(there, key=rank)]


def _answers(experiment: Experiment, table: Comparison) -> tuple[dict[str, Any] | None, dict[str, Any] | None, str]:
    """The viewer's data; or, where the answers are not here, published texts of them; or neither, and the reason."""
    try:
        try:
            return viewer.of_table(experiment, table), None, ""
        except MissingInputError:
            if not texts.path_of(experiment).is_file():
                raise
            return None, published.of_table(experiment, table), ""
    except T3DError as error:
        return None, None, str(error)


def _scripts(published_texts: dict[str, Any] | None) -> tuple[str, ...]:
    return ("report.js", "report.texts.js") if published_texts else ("report.js",)


def _downloads(experiment: Experiment, csv: Path) -> list[dict[str, str]]:
    found = [(csv.with_suffix(suffix), mime) for suffix, mime in _DOWNLOADS.items()]
    return [
        {"name": f"{experiment.name}-{path.name}", "kind": path.suffix[1:], "link": _data(mime, path)}
        for path, mime in found
        if path.is_file()
    ]


def _data(mime: str, path: Path) -> str:
    return f"data:{mime};base64,{b64encode(path.read_bytes()).decode()}"


def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment.get_template("report.html.j2")
