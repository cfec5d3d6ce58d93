"""Training curves from each `training.jsonl`: the loss, its terms, disagreement, gradient norms.

Nothing is smoothed: a line is the mean over training seeds at each optimizer step, its band their range. For a
converted teacher it also shows what its answers to some prompts were like at three moments (`t3d/teachers/probes.py`).
"""

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, ScalarFormatter

from t3d.errors import CorruptArtefactError, MissingInputError, reading
from t3d.params import Experiment, TrainingFigure
from t3d.params.json_files import read_lines
from t3d.provenance import advice, lineage
from t3d.provenance.lineage import LOG
from t3d.provenance.store import Manifest, sha256
from t3d.reporting.figures.style import OTHERS, grid, legend_below, light_grid, look_of, lowest
from t3d.reporting.inputs import by_artefact

_TITLES = {
    "loss": "Loss (nats)",
    "likelihood_term": "Likelihood term (nats)",
    "ar_term": "KL to the AR model (nats)",
    "entropy_term": "Entropy term (nats)",
    "real_term": "DDO, real term (nats)",
    "fake_term": "DDO, fake term (nats)",
    "path_term": "Path term (nats)",
    "disagreement": "Disagreement (share)",
    "gradient_norm": "Gradient norm",
    "real_gradient_norm": "Gradient norm, real term",
    "fake_gradient_norm": "Gradient norm, fake term",
    "complete": "Answers that end (share)",
    "nll": "NLL by the AR model (nats)",
}
"""Key of the log -> its panel, in the order drawn; see `t3d/distillation/losses.py`."""
_PROBES = ("complete", "nll")
"""Logged at some steps only. `nll`, in nats per token, is compared with that of the model's own answers, `own_nll`."""
_REFERENCE = ("real_term", "fake_term")
"""Terms that are log 2 where the student is its reference."""
_BELOW = "DDO"
"""Label of the student whose lines T3D's cover, since T3D's loss is its plus the path term: they are wide and pale."""
_PANEL = (2.5, 1.75)
"""Inches."""
_LOG_2 = math.log(2)
_COLUMNS = (3, 4, 2)
"""Panels side by side: whichever leaves fewer places empty."""
_WIDE = 20
"""What is positive, and at its largest this many times its smallest, has a logarithmic axis."""


def draw(experiment: Experiment, wanted: TrainingFigure, manifests: list[Path]) -> Figure:
    """One panel per quantity that somebody logged, a colour per student.

    Args:
        manifests: `students/<run>.manifest.json` of every seed, and `teachers/<name>.manifest.json`, in any order.

    Raises:
        As `by_artefact` and `read_log`.
    """
    students = [key for key in experiment.students if key in wanted.students]
    runs = {key: [f"teachers/{key}"] for key in wanted.teachers}
    runs |= {key: [f"students/{run}" for run in lineage.runs_of(experiment, key)] for key in students}
    # Of a model the log alone is read: its weights are gigabytes, and need not be here.
    found: dict[str, Manifest] = {}
    for kind in ("teachers", "students"):
        artefacts = [run for names in runs.values() for run in names if run.startswith(f"{kind}/")]
        given = [path for path in manifests if (path.parent.name == "teachers") == (kind == "teachers")]
        found |= by_artefact(experiment, artefacts, given, kind=kind)
    logs = {key: pd.concat(read_log(found[run]) for run in names) for key, names in runs.items()}
    shown = [key for key in _TITLES if any(key in log.columns for log in logs.values())]
    rows, columns = grid(len(shown), _COLUMNS)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axis, key in zip(axes.flat, shown, strict=False):
        _draw_panel(axis, experiment, logs, key)
    for axis in lowest(axes, len(shown)):
        axis.set_xlabel("Optimizer step")
    handles = [Line2D([], [], **(_line(experiment, key) | {"linewidth": 2.0})) for key in runs]
    several = any(len(names) > 1 for names in runs.values())
    note = "Every optimizer step, not smoothed." + (" Line: mean over training seeds; band: their range." * several)
    if any(key in shown for key in _REFERENCE):
        note += " DDO's terms are log 2 (grey) where the student is its reference; ticks: differences from it."
    if "nll" in shown:
        note += " Dotted: the autoregressive model's own answers."
    labels = [(experiment.students.get(key) or experiment.teachers[key]).label for key in runs]
    legend_below(figure, handles, labels, note)
    return figure


def read_log(manifest: Manifest) -> pd.DataFrame:
    """The log of a student or of a converted teacher, one row per optimizer step: step, loss, its parts, gradient_norm,
    learning_rate, and of probes `complete`, `nll` and `own_nll`.

    Raises:
        MissingInputError: it is not here.
        CorruptArtefactError: the manifest lists no log, the log is another one, or it is not what the trainer writes.
    """
    name = f"{manifest.base.name}/{LOG}"
    path = manifest.path.parent / name
    if name not in manifest.files:
        raise CorruptArtefactError(f"{manifest.path} lists no {name}. {advice.of_manifest(manifest.path)}")
    listed = manifest.files[name]["sha256"]
    if not path.is_file():
        again = advice.of_missing(path, manifest.path, listed)
        raise MissingInputError(f"{path} is missing, though {manifest.path} lists it. {again}")
    if sha256(path) != listed:
        again = advice.of_damaged(path, manifest.path, listed)
        raise CorruptArtefactError(f"{path} is not the log that {manifest.path} lists. {again}")
    again = f"Delete {manifest.path} and run its stage again."
    with reading(path, again, fault="is not a training log"):
        log = pd.DataFrame([_flat(entry) for entry in read_lines(path, dict[str, Any], again)])
        return log.astype({"step": int, "loss": float})


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    probes = entry.pop("probes", {})
    return entry | {key: probes[key] for key in (*_PROBES, "own_nll") if key in probes}


def curve(log: pd.DataFrame, key: str) -> pd.DataFrame:
    """Mean, min and max of `key` over seeds at each step, indexed by step.

    Args:
        log: of one student, the rows of its seeds together.
    """
    return log.dropna(subset=key).groupby("step")[key].agg(["mean", "min", "max"])


def _line(experiment: Experiment, student: str) -> dict[str, Any]:
    converted = [key for key, teacher in experiment.teachers.items() if teacher.source == "convert"]
    # The first of several conversions looks as a teacher does everywhere.
    own = {"color": OTHERS[(converted.index(student) - 1) % len(OTHERS)][0]} if student in converted[1:] else {}
    # A marker at every step would hide the line, and a strong line the next steps.
    look = look_of(experiment, student) | own | {"marker": "", "linewidth": 1.0, "linestyle": "-"}
    spec = experiment.students.get(student)
    return look | {"linewidth": 2.6, "alpha": 0.5} if spec is not None and spec.label == _BELOW else look


def _draw_panel(axis: Axes, experiment: Experiment, logs: dict[str, pd.DataFrame], key: str) -> None:
    lines = {student: curve(log, key) for student, log in logs.items() if key in log.columns}
    for student, line in lines.items():
        look = _line(experiment, student)
        axis.fill_between(line.index, line["min"], line["max"], color=look["color"], alpha=0.2, linewidth=0)
        axis.plot(line.index, line["mean"], **look | ({"marker": "o"} if key in _PROBES else {}))
        if key == "nll":
            own = curve(logs[student], "own_nll")
            axis.plot(own.index, own["mean"], **look | {"linestyle": ":"})
    if key in _REFERENCE:
        axis.axhline(_LOG_2, color="#808080", linewidth=0.9, zorder=6)
    axis.set_title(_TITLES[key], loc="left")
    lowest, highest = (
        min(line["min"].min() for line in lines.values()),
        max(line["max"].max() for line in lines.values()),
    )
    if key in _REFERENCE:
        # They move in the fourth digit.
        ticks = [float(tick) for tick in MaxNLocator(4).tick_values(lowest - _LOG_2, highest - _LOG_2)]
        axis.yaxis.set_major_locator(FixedLocator([_LOG_2 + tick for tick in ticks]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _beside_log_2(value - _LOG_2)))
    elif key == "complete":
        axis.set_ylim(0, 1)
    elif key != "nll" and 0 < lowest * _WIDE < highest:
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        # As many digits as tell its ticks apart, of which there are few.
        axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    light_grid(axis)


def _beside_log_2(difference: float) -> str:
    return "log 2" if abs(difference) < 1e-9 else f"{difference:+.3g}".replace("-", "\N{MINUS SIGN}")
