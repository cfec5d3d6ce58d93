"""What the figures share: type, a look per model, and a legend that fits below the panels."""

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from t3d.params import Experiment
from t3d.provenance import lineage

# Okabe and Ito's colours, without black (too near the teacher's grey) and yellow (too near the paper).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_TEACHER = {"color": "#404040", "linestyle": "--", "marker": "x", "zorder": 3}

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
_NOTE_SIZE = 8
# Inches of DejaVu Sans at sizes 8 and 9; estimates, on the wide side.
_NOTE_CHARACTER, _NOTE_LINE = 0.064, 0.14
_LABEL_CHARACTER, _LABEL_KEY, _LABEL_LINE = 0.07, 0.5, 0.2


def look_of(experiment: Experiment, model: str) -> dict[str, Any]:
    """Colour and marker of a student, or of a teacher, as arguments of `Axes.plot`.

    They are given out in the order in which the experiment's figures first show the students, so that a student looks
    the same in all of them.
    """
    if model not in experiment.students:
        return dict(_TEACHER)
    shown = [student for figure in experiment.figures.values() for student in lineage.students_of(experiment, figure)]
    place = list(dict.fromkeys([*shown, *experiment.students])).index(model)
    turn, colour = divmod(place, len(COLOURS))
    return {"color": COLOURS[colour], "linestyle": "-", "marker": _MARKERS[(place + turn) % len(_MARKERS)]}


def light_grid(axis: Axes) -> None:
    """Horizontal lines to read values by."""
    axis.grid(axis="y", color="#e4e4e4", linewidth=0.6)


def legend_below(figure: Figure, handles: list[Any], labels: list[str], note: str) -> None:
    """A legend under the panels, in as many columns as fit, with a text that says what is drawn.

    The figure grows by what they need, so that the panels keep their size.

    Args:
        handles: artists, one per label.
        note: shown above the labels, wrapped to the figure's width.
    """
    width = figure.get_figwidth()
    columns = int(width / (_LABEL_KEY + _LABEL_CHARACTER * max(map(len, labels))))
    columns = max(1, min(columns, len(labels)))
    text = textwrap.wrap(note, int(width / _NOTE_CHARACTER))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)
    legend.set_title("\n".join(text), FontProperties(size=_NOTE_SIZE))
    legend.get_title().set_multialignment("center")
    figure.set_figheight(
        figure.get_figheight() + _NOTE_LINE * len(text) + _LABEL_LINE * -(-len(labels) // columns) + _LABEL_LINE
    )
