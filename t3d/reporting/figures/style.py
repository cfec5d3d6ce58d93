"""What the figures share: type, a look per method, labels at the ends of lines, and a text below the panels."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from scipy.optimize import isotonic_regression

from t3d.params import Experiment
from t3d.provenance import lineage

_THIN, STRONG = 1.3, 2.4
"""Widths of lines, points."""
# Okabe and Ito's colours, without yellow (too near the paper) and black (too near the teacher's grey), and Tol's wine.
_METHODS = {
    "SFT": ("#56B4E9", "o", _THIN),
    "ReDi": ("#E69F00", "s", _THIN),
    "dParallel": ("#882255", "P", _THIN),
    "Naive TD": ("#009E73", "^", _THIN),
    "DDO": ("#CC79A7", "X", _THIN),
    "T3D": ("#0072B2", "D", STRONG),
    "Ours": ("#D55E00", "v", 1.9),
}
"""Label of a student up to its first colon -> colour, marker and width, in every experiment."""
OTHERS = tuple(
    zip(("#999933", "#44AA99", "#332288", "#AA4499", "#661100", "#777777"), ("<", ">", "p", "h", "*", "8"), strict=True)
)
"""Colours and markers of students with other labels, by Tol."""
_TEACHER = {"color": "#404040", "linestyle": "--", "marker": "x", "linewidth": _THIN, "zorder": 3}

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
}
ALONE = 4.2
"""Width of a figure of one column, inches: its legend and note need more than a panel."""
LABELS = 1.2
"""Width of the labels beside the last column, inches."""
_LABEL_SIZE, _LABEL_WRAP, _LINE_HEIGHT = 8, 18, 0.125
"""Of a label at the end of a line: points, characters, inches of a line."""
_NOTE_SIZE = 8
# Inches of DejaVu Sans at sizes 8 and 9; estimates, on the wide side.
_NOTE_CHARACTER, _NOTE_LINE = 0.064, 0.14
_LABEL_CHARACTER, _LABEL_KEY, _LABEL_LINE = 0.07, 0.5, 0.2
_GAP = 0.1
"""Between panels and the text below them, inches."""


def look_of(experiment: Experiment, model: str) -> dict[str, Any]:
    """Colour, marker and width of a student, or of a teacher, as arguments of `Axes.plot`.

    A method looks the same in every figure of every experiment, and T3D has the strongest line. Students with labels of
    their own get what is left, in the order in which the experiment's figures first show them.
    """
    if model not in experiment.students:
        return dict(_TEACHER)
    method = _method(experiment, model)
    if method in _METHODS:
        colour, marker, width = _METHODS[method]
        return {"color": colour, "linestyle": "-", "marker": marker, "linewidth": width, "zorder": 2 + width}
    shown = [student for figure in experiment.figures.values() for student in lineage.students_of(experiment, figure)]
    others = [key for key in [*shown, *experiment.students] if _method(experiment, key) not in _METHODS]
    turn, place = divmod(list(dict.fromkeys(others)).index(model), len(OTHERS))
    colour, marker = OTHERS[place][0], OTHERS[(place + turn) % len(OTHERS)][1]
    return {"color": colour, "linestyle": "-", "marker": marker, "linewidth": _THIN, "zorder": 2 + _THIN}


def _method(experiment: Experiment, student: str) -> str:
    return experiment.students[student].label.partition(":")[0]


def grid(panels: int, columns: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of so many panels: of the numbers of `columns` the first that leaves fewest places empty."""
    width = min(min(columns, key=lambda count: -panels % count), panels)
    return -(-panels // width), width


def lowest(axes: np.ndarray, panels: int) -> list[Axes]:
    """The lowest panel of each column of a grid, with its tick labels; places without a panel are removed."""
    for axis in axes.flat[panels:]:
        axis.remove()
    found = list(axes.flat[max(0, panels - axes.shape[1]) : panels])
    for axis in found:
        axis.tick_params(labelbottom=True)
    return found


@dataclass(frozen=True)
class End:
    """The last point of a line, in data coordinates, and what the line is called."""

    x: float
    y: float
    label: str
    color: Any


def label_ends(axis: Axes, ends: Sequence[End], height: float) -> None:
    """Write labels beside a panel, each at the height of its line's end or as near as they fit, joined to it.

    Args:
        axis: the panel, with its final limits and a linear y axis.
        ends: of the lines.
        height: of the panel, inches.
    """
    low, high = axis.get_ylim()
    ends = sorted(ends, key=lambda end: end.y)
    texts = [textwrap.fill(end.label, _LABEL_WRAP) for end in ends]
    sizes = np.array([(text.count("\n") + 1) * _LINE_HEIGHT / height for text in texts])
    wanted = np.array([(end.y - low) / (high - low) for end in ends])
    places = spread(wanted, sizes)
    for end, text, place in zip(ends, texts, places, strict=True):
        axis.annotate(
            text,
            (end.x, end.y),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=_LABEL_SIZE,
            linespacing=1.0,
            # A little darker than its line, to be read on white.
            color=tuple(0.75 * part for part in to_rgb(end.color)),
            arrowprops={
                "arrowstyle": "-",
                "color": end.color,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def spread(wanted: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Centres of labels of some `sizes` within 0..1, nearest to where they are `wanted` without overlapping.

    Args:
        wanted: ascending.
        sizes: of the same order.
    """
    offsets = np.cumsum(sizes) - sizes / 2
    free = max(1.0 - float(sizes.sum()), 0.0)
    return np.clip(isotonic_regression(wanted - offsets).x, 0.0, free) + offsets


def light_grid(axis: Axes) -> None:
    """Horizontal lines to read values by."""
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.6)


def legend_below(figure: Figure, handles: list[Any], labels: list[str], note: str) -> None:
    """A text under the panels that says what is drawn, and a legend in as many columns as fit.

    The figure grows by what they need, so that the panels keep their size.

    Args:
        handles: artists, one per label; none where lines have their labels at their ends.
        note: shown above the labels, wrapped to the figure's width.
    """
    width = figure.get_figwidth()
    columns = int(width / (_LABEL_KEY + _LABEL_CHARACTER * max(map(len, labels), default=1)))
    columns = max(1, min(columns, len(labels)))
    text = textwrap.wrap(note, int(width / _NOTE_CHARACTER))
    # Without the legend's own margins, which leave an empty band below the figure.
    margins = {"borderpad": 0.0, "borderaxespad": 0.2}
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2, **margins)
    legend.set_title("\n".join(text), FontProperties(size=_NOTE_SIZE))
    legend.get_title().set_multialignment("center")
    figure.set_figheight(
        figure.get_figheight() + _NOTE_LINE * len(text) + _LABEL_LINE * -(-len(labels) // columns) + _GAP
    )
