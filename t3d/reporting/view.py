"""A table as a reader sees it, in any format: rows, columns, and what each cell says and was made from.

Each kind of table makes its view of its tidy rows (`accuracy.py`, `decoding.py`, `parallelism.py`), here is what they
share. No number is computed: a view follows from the CSV, so that a page can be made where no score is. `renderings.py`
writes it as Markdown and LaTeX, `page/report.html.j2` as HTML.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from t3d.params import AUTOREGRESSIVE, Comparison, Experiment, ServedComparison
from t3d.provenance import lineage, trace

DAGGER, DASH, MINUS = "†", "–", "\N{MINUS SIGN}"
POINTS = (2.0, 5.0, 10.0)
"""Differences from the paper's accuracy, in points, at which the shade of a cell becomes one level darker."""
PERCENT = (5.0, 15.0, 40.0)
"""The same for other measures, in percent of the paper's value."""
DIGITS = {"latency_seconds": 2, "tokens_per_step": 2}
"""Metric -> its number of decimals; other metrics have one."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table."""

    text: str
    interval: str = ""
    """`[77.2, 89.2]`."""
    difference: str = ""
    """`(+2.5 [-1.2, 6.0])`, which Markdown and LaTeX show instead of the interval."""
    detail: tuple[str, ...] = ()
    """Lines that the page shows when the cell is pointed at or has the focus."""
    scores: tuple[str, ...] = ()
    """Cells of `t3d trace` that the number is made from."""
    best: bool = False
    differs: bool = False
    """Whether it differs from the row that the others are compared with, p < 0.05 corrected."""
    reported: str = ""
    """The paper's value."""
    shade: str = ""
    """`over-1` to `over-3` above the paper's value, `under-1` to `under-3` below, `equal`, or nothing to compare."""
    accuracy: float | None = None
    """In percent, for a cell that shows one score or its mean over seeds."""
    points: str = ""
    """Of a relative change, the same in points, which the page shows."""


Row = tuple[str, tuple[Cell, ...]]
"""Method and its cells."""
Group = tuple[tuple[str, ...], list[Row]]
"""What rows have in common, a text for each of `View.common`, and the rows."""
Names = dict[tuple[str, str, str], str]
"""Row's label, column, budget -> cell of `t3d trace`."""


@dataclass(frozen=True)
class View:
    """A table to look at."""

    name: str
    caption: str
    common: tuple[str, ...]
    """Heads of the first columns, before the method: what the rows of a group have in common."""
    columns: tuple[str, ...]
    """Heads of the columns after the method."""
    groups: list[Group]
    note: str
    blocks: tuple[tuple[int | None, int], ...] = ()
    """Block size that adjacent columns share (None for columns without one) and how many they are."""

    def cells(self) -> Iterable[Cell]:
        """All of them."""
        return (cell for _, rows in self.groups for _, cells in rows for cell in cells)


def is_ours(label: str) -> bool:
    """Whether a row is the paper's method, or this project's own: the page sets these off."""
    return label == "T3D" or label.startswith("Ours")


def names_of(experiment: Experiment, table: Comparison) -> Names:
    """The cell of `t3d trace` of every place of a table."""
    return {
        (p.label, p.column, p.budget): trace.name_of(experiment, p) for p in lineage.all_cells_of(experiment, table)
    }


def budget_of(row: Any) -> str:
    """The budget of a tidy row, from its block size and its tokens per step or threshold; `AUTOREGRESSIVE` without
    block size."""
    if pd.isna(row.block_size):
        return AUTOREGRESSIVE
    kind = f"t{row.threshold:g}" if pd.isna(row.tokens_per_step) else f"s{row.block_size / row.tokens_per_step:.0f}"
    return f"b{row.block_size:.0f}{kind}"


def shade(difference: float, reported: float, points: bool) -> str:
    """The class of a cell whose value is `difference` above the paper's."""
    size = abs(difference) if points else 100 * abs(difference) / max(abs(reported), 1e-9)
    level = sum(size >= bound for bound in (POINTS if points else PERCENT))
    return f"{'over' if difference > 0 else 'under'}-{level}" if level else "equal"


def beside_the_paper(row: Any, value: float, metric: str, detail: list[str]) -> dict[str, Any]:
    """What a cell says of the paper's value, where it has one, after its other lines of detail."""
    if pd.isna(row.reported):
        return {"detail": tuple(detail)}
    difference, reported = value - row.reported, text_of(metric, row.reported)
    return {
        "detail": (*detail, f"paper {reported}, ours {signed(difference, DIGITS.get(metric, 1))}"),
        "reported": reported,
        "shade": shade(difference, row.reported, points=metric == "accuracy"),
    }


def text_of(metric: str, value: float) -> str:
    """The value of a metric as a reader sees it. Below 0.1 it has two significant digits: a latency may be a
    millisecond."""
    return format(value, ".2g" if 0.0 < value < 0.1 else f".{DIGITS.get(metric, 1)}f")


def interval(low: float, high: float) -> str:
    """`[77.2, 89.2]`; nothing is −0.0."""
    return f"[{low:z.1f}, {high:z.1f}]"


def signed(number: float, digits: int = 1) -> str:
    """`+2.5`, or a number after a minus sign; what rounds to zero is `+0.0`."""
    return f"{number:+z.{digits}f}".replace("-", MINUS)


def counted(row: Any) -> str:
    """Questions and seeds of a row."""
    return f"{row.n} questions, {row.seeds} seed{'' if row.seeds == 1 else 's'}"


def note(*parts: str) -> str:
    """The parts that are not empty, as one text."""
    return " ".join(part for part in parts if part)


def about_samples(experiment: Experiment, table: Comparison, tidy: pd.DataFrame) -> str:
    """How many questions a benchmark has, and how many seeds a student."""
    counts = tidy.dropna(subset="n").drop_duplicates("benchmark")
    asked = ", ".join(f"{experiment.benchmarks[row.benchmark].label} {row.n}" for row in counts.itertuples())
    students = [row for row in lineage.rows_of(experiment, table) if row.model not in experiment.teachers]
    seeds = "; ".join(f"{row.label} {len(lineage.runs_of(experiment, row.model, table.seeds))}" for row in students)
    return note(f"Questions (n): {asked}.", f"Training seeds averaged: {seeds}." if seeds else "")


def about_autoregressive(experiment: Experiment, table: ServedComparison, tidy: pd.DataFrame, how: str) -> str:
    """What a table says of its autoregressive rows, which have no budget, or of their absence."""
    if table.autoregressive is None:
        return ""
    label = experiment.teachers[table.autoregressive].label
    if tidy[["tokens_per_step", "threshold"]].isna().all(axis=1).any():
        return f"{label} writes a token at a time, at no budget: {how}."
    return f"{label}: no row, for vLLM has not answered here (docs/vllm.md)."


def about_speed(speeds: pd.DataFrame) -> str:
    """Where tokens per second were measured.

    Args:
        speeds: `device`, `batch_size` and perhaps `gpu_jobs` of the scores: the totals of `scores.load`, or as much of
            them as is here.
    """
    if speeds.empty:
        return "The receipts of the speeds are not here; the Markdown file says where they were measured."
    where = ", ".join(sorted(speeds["device"].unique()))
    sizes = ", ".join(str(size) for size in sorted(speeds["batch_size"].unique()))
    jobs = "jobs may have shared the machine"
    if "gpu_jobs" in speeds and speeds["gpu_jobs"].notna().all():
        most = int(speeds["gpu_jobs"].max())
        jobs = "each job had its GPU to itself" if most == 1 else f"up to {most} jobs shared a GPU"
    return f"Speed is that of this run: on {where}, {sizes} sequences together; {jobs}."
