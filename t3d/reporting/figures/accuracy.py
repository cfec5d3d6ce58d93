"""Accuracy against tokens per step or per second: what few-step decoding costs, and what each student wins back.

The numbers are those of a table of the same cells (`t3d/reporting/accuracy.py`), so a figure never disagrees with one.
"""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from t3d.params import AccuracyFigure, Experiment
from t3d.provenance import lineage
from t3d.reporting import scores, view
from t3d.reporting.accuracy import accuracy_table, autoregressive_rows
from t3d.reporting.figures.style import (
    ALONE,
    LABELS,
    STRONG,
    End,
    grid,
    label_ends,
    legend_below,
    light_grid,
    look_of,
    lowest,
)

_PANEL = (2.7, 2.35)
"""Inches."""
_TICKS = {2: ((1,), (1, 1.5), (1, 1.25, 1.5, 1.75)), 10: ((1,), (1, 2, 5), (1, 2, 3, 5), (1, 1.5, 2, 3, 5, 7))}
"""Base of a logarithmic axis -> multiples of its powers that may have ticks, ever closer."""
_BARE = 0.25
"""Largest part of an axis that may lie beyond its first or last tick: a point there could not be read off."""
_LOW = 12
"""Percent. Below a point that is lower than this, there is no room for its mark."""
_BAND = "Band: 95 % Wilson interval over questions"
_CROWD = 4
"""Of more lines than this, only Original's and the strongest have bands: others would cover them."""
_LEVEL: dict[str, Any] = {"color": "#000000", "linestyle": ":", "linewidth": 1.3}
"""Look of an autoregressive model, which has one accuracy: it has no budget."""
_TALLER = 4 / 3
"""How much higher its interval may make the y axis; else its numbers stand at the upper edge. In `qwen-right` it has
58.5 % on HumanEval and the others at most 28.7: in an axis up to 65.8 their lines would shrink to half."""
_SEEDS = "Line: mean over training seeds. "


def draw(experiment: Experiment, wanted: AccuracyFigure, manifests: list[Path]) -> Figure:
    """One panel per benchmark and block size, a line per method and kind of budget; raises as `scores.load`.

    An autoregressive model has a level line if its scores are among the manifests.

    Args:
        manifests: of the scores it needs.
    """
    frame, totals = scores.load(experiment, wanted, manifests)
    several = frame.groupby("method")["seed"].nunique().max() > 1
    points = points_of(experiment, wanted, frame, totals)
    level = autoregressive_rows(experiment, wanted, frame)
    banded, lines = _banded(experiment, wanted), len(_looks(experiment, wanted))
    note = (_SEEDS if several else "") + _BAND
    labels = [*banded, *level["method"].unique()]
    named = ", ".join(labels[:-1]) + " and " * (len(labels) > 1) + labels[-1]
    note += f" ({named})." if len(banded) < lines else "."
    if len(level):
        above = (level["accuracy"] > _top(points, level)).any()
        note += f" Level dotted line: {labels[-1]}, one token per forward{'; ↑: above the panel' if above else ''}."
    if wanted.against == "tokens_per_second":
        note += f" Speed is that of this decoder on {_machine(totals)}; another machine's differs."
    if wanted.against == "tokens_per_step" and points["dynamic"].any():
        note += " Tokens per step as measured: response tokens / denoising steps."
    if points["mark"].any():
        kinds = [("confidence threshold", True), ("tokens per step as set", False)]
        marked = points.loc[points["mark"] != "", "dynamic"].unique()
        note += f" Small numbers: {', or '.join(text for text, dynamic in kinds if dynamic in marked)}."
    return _drawn(experiment, wanted, points, level, note)


def points_of(
    experiment: Experiment, wanted: AccuracyFigure, frame: pd.DataFrame, totals: pd.DataFrame
) -> pd.DataFrame:
    """One row per point, a line's points in the order they are joined: fewest tokens per step first.

    Args:
        frame: per question, from `scores.load`.
        totals: per cell, from `scores.load`.

    Returns:
        The cells of `accuracy_table` with their budget, dynamic (whether it is a threshold), x and mark (what is
        written at a teacher's point that begins or ends a line, else empty). x is tokens per second averaged over
        seeds, or tokens per step. The latter is what a static budget sets, but a measured number (tokens over steps, of
        all questions and seeds) for every budget of a figure that shows thresholds: the last block of a response is
        rarely full, so a set number would put static budgets ahead.
    """
    points = accuracy_table(experiment, wanted, frame).dropna(subset="block_size").reset_index(drop=True)
    points["budget"] = [view.budget_of(point) for point in points.itertuples()]
    points["dynamic"] = points["threshold"].notna()
    points["x"] = points["tokens_per_step"].astype(float)
    cell = ["method", "benchmark", "budget"]
    against_speed = wanted.against == "tokens_per_second"
    if against_speed:
        measured = totals.groupby(cell)["tokens_per_second"].mean()
    else:
        sums = frame.groupby(cell)[["response_tokens", "denoising_steps"]].sum()
        measured = sums["response_tokens"] / sums["denoising_steps"]
    if against_speed or points["dynamic"].any():
        points["x"] = measured.loc[pd.MultiIndex.from_frame(points[cell])].to_numpy()
    points["mark"] = ""
    of_teacher = points[points["method"] == experiment.teachers[wanted.teacher].label]
    for (_, _, dynamic), line in of_teacher.groupby(["benchmark", "block_size", "dynamic"]):
        if dynamic or against_speed:
            for end in {line.index[0], line.index[-1]}:
                points.loc[end, "mark"] = f"{line.loc[end, 'threshold' if dynamic else 'tokens_per_step']:g}"
    return points


def _machine(totals: pd.DataFrame) -> str:
    sizes = " or ".join(f"{size:g}" for size in sorted(totals["batch_size"].unique()))
    return f"{', '.join(sorted(totals['device'].unique()))}, batch size {sizes}"


def _drawn(
    experiment: Experiment, wanted: AccuracyFigure, points: pd.DataFrame, level: pd.DataFrame, note: str
) -> Figure:
    blocks = sorted(points["block_size"].unique())
    # A panel per benchmark and block size; with one block size, up to three benchmarks stand side by side.
    panels = list(product(wanted.benchmarks, blocks))
    rows, columns = grid(len(panels), (len(blocks),) if len(blocks) > 1 else (3, 2))
    width = (ALONE if columns == 1 else _PANEL[0] * columns + 0.4) + LABELS
    figure = Figure(figsize=(width, _PANEL[1] * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    both = points["dynamic"].nunique() > 1
    for place, (axis, (benchmark, block)) in enumerate(zip(axes.flat, panels, strict=False)):
        panel = points[(points["benchmark"] == benchmark) & (points["block_size"] == block)]
        _draw_panel(axis, experiment, wanted, panel, both)
        label, n = experiment.benchmarks[benchmark].label, panel["n"].iloc[0]
        axis.set_title(f"{label} (n = {n}), block size {block}", loc="left")
        if place == 0:
            _scale(axis, wanted, points, level)
        ends = [*_ends(experiment, wanted, panel), *_draw_level(axis, level[level["benchmark"] == benchmark])]
        # A method looks the same in all panels, so the last one of each row has the labels.
        if (place + 1) % columns == 0 or place + 1 == len(panels):
            label_ends(axis, ends, _PANEL[1] - 0.5)
    for axis in axes[:, 0]:
        axis.set_ylabel("Accuracy (%)")
    for axis in lowest(axes, len(panels)):
        axis.set_xlabel("Tokens per second" if wanted.against == "tokens_per_second" else "Tokens per denoising step")
    kinds = {
        "fixed steps": Line2D([], [], color="#808080"),
        "threshold": Line2D([], [], color="#808080", linestyle=":"),
    }
    legend_below(figure, list(kinds.values()) if both else [], list(kinds) if both else [], note)
    return figure


def _ends(experiment: Experiment, wanted: AccuracyFigure, panel: pd.DataFrame) -> Iterator[End]:
    """The last point of each method's line; of two lines, that of fixed steps."""
    for label, look in _looks(experiment, wanted).items():
        line = panel[panel["method"] == label].sort_values("dynamic", kind="stable")
        last = line[line["dynamic"] == line["dynamic"].iloc[0]].iloc[-1]
        yield End(last["x"], last["accuracy"], label, look["color"])


def _looks(experiment: Experiment, wanted: AccuracyFigure) -> dict[str, dict[str, Any]]:
    """Label -> look; a model that is shown again, decoded in another way, has hollow markers."""
    looks: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    for row in lineage.rows_of(experiment, wanted):
        again = {"linestyle": "-.", "markerfacecolor": "white"} if row.model in seen else {}
        looks[row.label] = look_of(experiment, row.model) | again
        seen.add(row.model)
    return looks


def _banded(experiment: Experiment, wanted: AccuracyFigure) -> list[str]:
    """Labels of the lines that have bands."""
    looks = _looks(experiment, wanted)
    teacher = experiment.teachers[wanted.teacher].label
    strong = [label for label, look in looks.items() if (look["linewidth"], look["linestyle"]) == (STRONG, "-")]
    return [teacher, *strong] if len(looks) > _CROWD else list(looks)


def _draw_panel(axis: Axes, experiment: Experiment, wanted: AccuracyFigure, panel: pd.DataFrame, both: bool) -> None:
    banded = _banded(experiment, wanted)
    for label, look in _looks(experiment, wanted).items():
        for dynamic, line in panel[panel["method"] == label].groupby("dynamic"):
            dotted = {"linestyle": ":"} if both and dynamic else {}
            if label in banded:
                axis.fill_between(line["x"], line["low"], line["high"], color=look["color"], alpha=0.13, linewidth=0)
            axis.plot(line["x"], line["accuracy"], markersize=4, clip_on=False, **(look | dotted))
    for point in panel[panel["mark"] != ""].itertuples():
        low = point.accuracy < _LOW
        axis.annotate(
            point.mark,
            (point.x, point.accuracy),
            xytext=(-5, 0) if low else (0, -5),
            textcoords="offset points",
            ha="right" if low else "center",
            va="center" if low else "top",
            fontsize=7,
            color="#404040",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6},
            zorder=4,
        )
    light_grid(axis)


def _draw_level(axis: Axes, level: pd.DataFrame) -> Iterator[End]:
    """The accuracy of the autoregressive model in a panel with its final limits, if `level` has it; the line's end."""
    for row in level.itertuples():
        if row.accuracy > axis.get_ylim()[1]:
            said = f"{row.method}: {row.accuracy:.1f} {view.interval(row.low, row.high)} ↑"
            white = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axis.text(0.99, 0.98, said, transform=axis.transAxes, ha="right", va="top", fontsize=8, bbox=white)
            continue
        axis.axhspan(row.low, row.high, color=_LEVEL["color"], alpha=0.06, linewidth=0)
        axis.axhline(row.accuracy, **_LEVEL)
        yield End(axis.get_xlim()[1], row.accuracy, row.method, _LEVEL["color"])


def _scale(axis: Axes, wanted: AccuracyFigure, points: pd.DataFrame, level: pd.DataFrame) -> None:
    """Set the shared axes: x logarithmic; y from 0, so that gaps keep their size."""
    low, high = points["x"].min(), points["x"].max()
    margin = (high / low) ** 0.05 if high > low else 1.1
    base = 10 if wanted.against == "tokens_per_second" else 2
    as_set = base == 2 and not points["dynamic"].any()
    axis.set_xscale("log", base=base)
    axis.set_xlim(low / margin, high * margin)
    axis.xaxis.set_major_locator(FixedLocator(sorted(points["x"].unique()) if as_set else _ticks(low, high, base)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_ylim(0, _top(points, level))


def _top(points: pd.DataFrame, level: pd.DataFrame) -> float:
    """Upper end of the y axis: above all points with their intervals, and level lines that are not far above them."""
    own = points["high"].max()
    return min(100.0, max([own, *level.loc[level["high"] <= _TALLER * own, "high"]]) * 1.05)


def _ticks(low: float, high: float, base: int) -> list[float]:
    """Round numbers within low..high for a logarithmic axis, three or more and up to near both ends where there are."""
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
    found: list[float] = []
    for multiples in _TICKS[base]:
        found = [m * base**k for k in powers for m in multiples if low <= m * base**k <= high]
        if len(found) >= 3 and max(found[0] / low, high / found[-1]) <= (high / low) ** _BARE:
            break
    return found
