"""A tidy table as the page shows it: rows, columns, what each number means, and which cells stand behind it.

Read from the CSV in `results/`, so that a page can be made where no score is.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from t3d.errors import DataError
from t3d.params import AUTOREGRESSIVE, AccuracyTable, Budget, Comparison, DecodingTable, Experiment
from t3d.provenance import lineage, trace
from t3d.reporting.accuracy import AVERAGE, base_label
from t3d.reporting.decoding import METRICS, text_of

_SIGNIFICANT = 0.05
_MINUS, _DASH = "\N{MINUS SIGN}", "–"
POINTS = (2.0, 5.0, 10.0)
"""From how many points on a cell is shaded more: accuracies, beside the paper's."""
PERCENT = (5.0, 15.0, 40.0)
"""The same of other measures, in percent of the paper's value."""


@dataclass(frozen=True)
class Field:
    """What stands in one place of a table."""

    text: str
    interval: str = ""
    """`[77.2, 89.2]`."""
    detail: tuple[str, ...] = ()
    """Lines that are shown when the cell is pointed at or has the focus."""
    cells: tuple[str, ...] = ()
    """Cells of `t3d trace` that the number is made from."""
    best: bool = False
    differs: bool = False
    """From the row that the others are compared with, p < 0.05 corrected."""
    reported: str = ""
    shade: str = ""
    """`over-1` to `over-3` above the paper's value, `under-1` to `under-3` below, `equal`, or nothing to compare."""
    accuracy: float | None = None
    """Percent, of a cell that is one score's (or the mean of its seeds')."""


@dataclass(frozen=True)
class Grid:
    """A table to look at. `spans` heads adjacent columns together: text and width."""

    name: str
    caption: str
    note: str
    corner: tuple[str, str]
    spans: tuple[tuple[str, int], ...]
    head: tuple[str, ...]
    groups: tuple[tuple[str, tuple[tuple[str, tuple[Field, ...]], ...]], ...]
    """Head of a group of rows, and its rows: head and fields."""

    def fields(self) -> Iterable[Field]:
        """All of them."""
        return (field for _, rows in self.groups for _, fields in rows for field in fields)


def read(experiment: Experiment, name: str, csv: Path) -> Grid:
    """The table `name` of an experiment from its CSV; its note is that of the Markdown beside it.

    Raises:
        DataError: the CSV holds rows or columns that the experiment's table has not: it was made with others.
    """
    table = experiment.tables[name]
    tidy = pd.read_csv(csv)
    markdown = csv.with_suffix(".md")
    note = _note(markdown.read_text(encoding="utf-8")) if markdown.is_file() else ""
    try:
        if isinstance(table, AccuracyTable):
            return _accuracy(experiment, name, table, tidy, note)
        if isinstance(table, DecodingTable):
            return _decoding(experiment, name, table, tidy, note)
        return _parallelism(experiment, name, table, tidy, note)
    except (KeyError, AttributeError) as error:
        raise DataError(
            f"{csv} does not fit tables.{name} of params/{experiment.name}.yaml as it is now ({error}). Make it again: "
            f"snakemake {csv}"
        ) from error


def shade(difference: float, reported: float, points: bool) -> str:
    """The class of a cell whose value is `difference` above the paper's."""
    size = abs(difference) if points else 100 * abs(difference) / max(abs(reported), 1e-9)
    level = sum(size >= bound for bound in (POINTS if points else PERCENT))
    return f"{'over' if difference > 0 else 'under'}-{level}" if level else "equal"


def _note(markdown: str) -> str:
    # `renderings.View.markdown` writes caption, table and note, with these characters escaped.
    return re.sub(r"\\([\\|*_`<])", r"\1", markdown.strip().split("\n\n")[-1])


def _names(experiment: Experiment, table: Comparison) -> dict[tuple[str, str, str], str]:
    """Row's label, column, budget -> cell of `t3d trace`."""
    return {
        (place.label, place.column, place.budget): trace.name_of(experiment, place)
        for place in lineage.all_cells_of(experiment, table)
    }


def _accuracy(experiment: Experiment, name: str, table: AccuracyTable, tidy: pd.DataFrame, note: str) -> Grid:
    names, base = _names(experiment, table), base_label(experiment, table)
    budgets = [Budget.parse(text) for text in table.budgets]
    blocks = sorted({budget.block_size for budget in budgets})
    columns: list[tuple[int | None, str]] = [(block, b) for block in blocks for b in table.benchmarks]
    columns.append((None, AVERAGE))
    keys = ["tokens_per_step", "threshold"]
    best = tidy.groupby([*keys, "block_size", "benchmark"], dropna=False)["accuracy"].transform("max")
    groups = []
    marked = tidy.assign(best=tidy["accuracy"] == best)
    for (tokens, threshold), group in marked.groupby(keys, sort=False, dropna=False):
        if pd.isna(tokens) and pd.isna(threshold):
            groups.append((_DASH, _without_budget(group, columns, names, base)))
            continue
        head = f"p > {threshold:g}" if pd.isna(tokens) else f"{tokens:g}"
        here = [b for b in budgets if (b.threshold == threshold if pd.isna(tokens) else b.tokens_per_step == tokens)]
        if not here:
            raise KeyError(f"{head} tokens per step")
        rows = []
        for method, of_method in group.groupby("method", sort=False):
            cells = {(_block(row.block_size), row.benchmark): row for row in of_method.itertuples()}
            fields = []
            for block, benchmark in columns:
                asked = table.benchmarks if benchmark == AVERAGE else [benchmark]
                behind = [names[str(method), b, str(x)] for x in here for b in asked if block in (None, x.block_size)]
                fields.append(_of_accuracy(cells.get((block, benchmark)), behind, base))
            change = cells[None, AVERAGE].relative_change
            rows.append((str(method), (*fields, Field(_DASH if pd.isna(change) else f"{_signed(change)} %"))))
        groups.append((head, tuple(rows)))
    return Grid(
        name=name,
        caption=table.caption,
        note=note,
        corner=("Tokens per step", "Method"),
        spans=(*((f"Block size {block}", len(table.benchmarks)) for block in blocks), ("", 2)),
        head=(
            *(experiment.benchmarks[b].label for _ in blocks for b in table.benchmarks),
            *("Average", "Relative change"),
        ),
        groups=tuple(groups),
    )


def _without_budget(
    group: pd.DataFrame, columns: list[tuple[int | None, str]], names: dict[tuple[str, str, str], str], base: str
) -> tuple[tuple[str, tuple[Field, ...]], ...]:
    """The row of an autoregressive model: under the first block size, and blank under the others."""
    (method,) = group["method"].unique()
    cells = {row.benchmark: row for row in group.assign(best=False).itertuples()}
    of = {key: names[method, key, AUTOREGRESSIVE] for key in cells if key != AVERAGE}
    fields = [
        _of_accuracy(cells[key], list(of.values()) if key == AVERAGE else [of[key]], base)
        if block in (None, columns[0][0])
        else Field("")
        for block, key in columns
    ]
    return ((method, (*fields, Field(_DASH))),)


def _block(size: float) -> int | None:
    return None if pd.isna(size) else int(size)


def _of_accuracy(row: Any, behind: list[str], base: str) -> Field:
    if row is None:
        return Field(_DASH)
    detail = []
    single = row.benchmark != AVERAGE
    if single:
        detail.append(f"95 % interval {row.low:.1f} to {row.high:.1f}, {int(row.n)} questions, {_counted(row.seeds)}")
    if not pd.isna(row.seed_low):
        detail.append(f"95 % interval over seeds {row.seed_low:.1f} to {row.seed_high:.1f}")
    if not pd.isna(row.difference):
        interval = f" [{_signed(row.difference_low)}, {_signed(row.difference_high)}]" if single else ""
        detail.append(f"{_signed(row.difference)} points from {base}{interval}")
    if not pd.isna(row.p_value):
        detail.append(f"p = {row.p_value:.3g}, corrected {row.p_adjusted:.3g}")
    return Field(
        text=f"{row.accuracy:.1f}",
        interval=f"[{row.low:.1f}, {row.high:.1f}]" if single else "",
        cells=tuple(behind),
        best=bool(row.best),
        differs=bool(row.p_adjusted < _SIGNIFICANT),
        accuracy=float(row.accuracy) if single else None,
        **_beside_the_paper(row, row.accuracy, "accuracy", detail),
    )


def _decoding(experiment: Experiment, name: str, table: DecodingTable, tidy: pd.DataFrame, note: str) -> Grid:
    names = _names(experiment, table)
    groups = []
    for text in table.budgets:
        budget = Budget.parse(text)
        kind = "threshold" if budget.threshold else "tokens_per_step"
        here = (tidy["block_size"] == budget.block_size) & (tidy[kind] == getattr(budget, kind))
        for benchmark in table.benchmarks:
            rows = []
            for method, values in tidy[here & (tidy["benchmark"] == benchmark)].groupby("method", sort=False):
                by_metric = {row.metric: row for row in values.itertuples()}
                cell = names[str(method), benchmark, text]
                rows.append((str(method), tuple(_measured(by_metric[metric], cell) for metric in METRICS)))
            groups.append((f"{experiment.benchmarks[benchmark].label}, {text}", tuple(rows)))
    for place in lineage.autoregressive_cells(experiment, table):
        cell, rows = names[place.label, place.column, place.budget], []
        here = tidy["block_size"].isna() & (tidy["benchmark"] == place.column)
        for method, values in tidy[here].groupby("method", sort=False):
            by_metric = {row.metric: row for row in values.itertuples()}
            fields = [_measured(by_metric[m], cell) if m in by_metric else Field(_DASH) for m in METRICS]
            rows.append((str(method), tuple(fields)))
        if rows:
            groups.append((f"{experiment.benchmarks[place.column].label}, {_DASH}", tuple(rows)))
    corner, head = ("Benchmark and budget", "Method"), tuple(METRICS.values())
    return Grid(name, table.caption, note, corner, (), head, tuple(groups))


def _measured(row: Any, cell: str) -> Field:
    is_accuracy = row.metric == "accuracy"
    detail = [f"{int(row.n)} questions, {_counted(row.seeds)}"]
    if is_accuracy:
        detail.insert(0, f"95 % interval {row.low:.1f} to {row.high:.1f}")
    return Field(
        text=text_of(row.metric, row.value),
        interval=f"[{row.low:.1f}, {row.high:.1f}]" if is_accuracy else "",
        cells=(cell,),
        accuracy=float(row.value) if is_accuracy else None,
        **_beside_the_paper(row, row.value, row.metric, detail),
    )


def _parallelism(experiment: Experiment, name: str, table: Comparison, tidy: pd.DataFrame, note: str) -> Grid:
    names = _names(experiment, table)
    groups = []
    for (benchmark, block), group in tidy.groupby(["benchmark", "block_size"], sort=False):
        budgets = [text for text in table.budgets if Budget.parse(text).block_size == block]
        rows = []
        for row in group.itertuples():
            area = Field(
                text=f"{row.aup:.1f}",
                interval=f"[{row.aup_low:.1f}, {row.aup_high:.1f}]",
                detail=(
                    f"95 % bootstrap interval {row.aup_low:.1f} to {row.aup_high:.1f}",
                    f"{int(row.n)} questions, {_counted(row.seeds)}",
                ),
                cells=tuple(names[str(row.method), str(benchmark), text] for text in budgets),
                best=row.aup == group["aup"].max(),
            )
            fastest = [Field(_DASH)] * 4
            if not pd.isna(row.fastest_budget):
                cell = (names[str(row.method), str(benchmark), str(row.fastest_budget)],)
                matched = (f"matched accuracy: at least {row.matched_accuracy:.1f}",)
                fastest = [
                    Field(str(row.fastest_budget), cells=cell, detail=matched),
                    Field(f"{row.accuracy:.1f}", cells=cell, accuracy=float(row.accuracy)),
                    Field(f"{row.tokens_per_forward:.1f}", cells=cell),
                    Field(f"{row.tokens_per_second:.1f}", cells=cell),
                ]
            rows.append((str(row.method), (area, Field(f"{int(row.points)}"), *fastest)))
        groups.append((f"{experiment.benchmarks[str(benchmark)].label}, block {block}", tuple(rows)))
    head = ("AUP", "Points", "Fastest", "Accuracy", "Tokens per forward", "Tokens/s")
    return Grid(name, table.caption, note, ("Benchmark", "Method"), (), head, tuple(groups))


def _beside_the_paper(row: Any, value: float, metric: str, detail: list[str]) -> dict[str, Any]:
    """What a field says of the paper's value, where it has one."""
    if pd.isna(row.reported):
        return {"detail": tuple(detail)}
    difference = value - row.reported
    return {
        "detail": (*detail, f"paper {row.reported:.1f}, ours {_signed(difference)}"),
        "reported": f"{row.reported:.1f}",
        "shade": shade(difference, row.reported, points=metric == "accuracy"),
    }


def _signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", _MINUS)


def _counted(seeds: float) -> str:
    return "1 seed" if seeds == 1 else f"{int(seeds)} seeds"
