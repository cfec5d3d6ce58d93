"""Accuracy against tokens per step: what few-step decoding costs, and what each student wins back.

The numbers are those of a table of the same cells (`tables.accuracy_table`), so a figure never disagrees with one.
"""

from itertools import cycle, product
from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from t3d.errors import ParameterError
from t3d.params import AccuracyFigure, Experiment
from t3d.reporting import scores
from t3d.reporting.files import replacing
from t3d.reporting.tables import accuracy_table

# Okabe and Ito's colours, without black (too near the teacher's grey) and yellow (too near the paper).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v")
_TEACHER = {"color": "#404040", "linestyle": "--", "marker": "x", "zorder": 3}
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
_PANEL = (2.7, 2.3)
"""Inches."""


def accuracy_figure(experiment: Experiment, name: str, manifests: list[Path], out_pdf: Path) -> None:
    """Write figure `name` to `out_pdf`, and a PNG of 200 dots per inch beside it; equal scores give equal bytes.

    Args:
        manifests: of the scores it needs, see `scores.load`.

    Raises:
        ParameterError: the experiment has no such figure, or scores were made with other parameters.
        MissingInputError, CorruptArtefactError, DataError: as `scores.load`.
    """
    if name not in experiment.figures:
        known = ", ".join(experiment.figures) or "none"
        raise ParameterError(f"params/{experiment.name}.yaml has no figure {name!r}. Figures there: {known}.")
    wanted = experiment.figures[name]
    tidy = accuracy_table(experiment, wanted, scores.load(experiment, wanted, manifests), None)
    # A reader's own matplotlibrc must not change the figure.
    with style.context(["default", _STYLE]):
        figure = _draw(experiment, wanted, tidy)
        with replacing(out_pdf) as partial:
            figure.savefig(partial, format="pdf", metadata={"Title": wanted.caption, "CreationDate": None})
        with replacing(out_pdf.with_suffix(".png")) as partial:
            figure.savefig(partial, format="png", dpi=200, metadata={"Title": wanted.caption, "Software": None})


def _draw(experiment: Experiment, wanted: AccuracyFigure, tidy: pd.DataFrame) -> Figure:
    cells = tidy.dropna(subset="block_size")
    blocks = sorted(cells["block_size"].unique())
    rows, columns = len(wanted.benchmarks), len(blocks)
    figure = Figure(figsize=(_PANEL[0] * columns + 0.4, _PANEL[1] * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for (row, benchmark), (column, block) in product(enumerate(wanted.benchmarks), enumerate(blocks)):
        panel = cells[(cells["benchmark"] == benchmark) & (cells["block_size"] == block)]
        _draw_panel(axes[row, column], experiment, wanted, panel)
        n = panel["n"].iloc[0]
        axes[row, column].set_title(
            f"{experiment.benchmarks[benchmark].label} (n = {n}), block size {block}", loc="left"
        )
    _scale(axes[0, 0], sorted(cells["tokens_per_step"].unique()), cells["high"].max())
    for axis in axes[:, 0]:
        axis.set_ylabel("Accuracy (%)")
    for axis in axes[-1]:
        axis.set_xlabel("Tokens per denoising step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3 * columns))
    legend.set_title("Mean over training seeds; band: 95 % Wilson interval over questions", FontProperties(size=8))
    return figure


def _draw_panel(axis: Axes, experiment: Experiment, wanted: AccuracyFigure, panel: pd.DataFrame) -> None:
    # By its place in the experiment, so that a student keeps its colour in every figure.
    looks = {
        key: {"color": colour, "marker": marker}
        for key, colour, marker in zip(experiment.students, cycle(_COLOURS), cycle(_MARKERS), strict=False)
    }
    for key, label in scores.methods_of(experiment, wanted).items():
        line = panel[panel["method"] == label]
        look = looks.get(key, _TEACHER)
        x = line["tokens_per_step"]
        axis.fill_between(x, line["low"], line["high"], color=look["color"], alpha=0.13, linewidth=0)
        axis.plot(x, line["accuracy"], label=label, linewidth=1.4, markersize=4, clip_on=False, **look)
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.6)


def _scale(axis: Axes, tokens_per_step: list[float], highest: float) -> None:
    """Set the shared axes: x in powers of two, ticks where there are points; y from 0, so that gaps keep their size."""
    axis.set_xscale("log", base=2)
    axis.set_xlim(tokens_per_step[0] / 2**0.15, tokens_per_step[-1] * 2**0.15)
    axis.xaxis.set_major_locator(FixedLocator(tokens_per_step))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_ylim(0, min(100.0, highest * 1.05))
