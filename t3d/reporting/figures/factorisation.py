"""Conditional total correlation against the decoding interval, for a teacher and its students (paper, Fig. 2a).

Each model's log-probability gaps per rollout come from the stage `t3d/evaluation/factorisation.py`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from t3d.errors import DataError
from t3d.params import Experiment, FactorisationFigure
from t3d.provenance import lineage
from t3d.provenance.parquet import GAPS, of_artefact
from t3d.provenance.store import Manifest
from t3d.reporting.figures.style import ALONE, LABELS, End, label_ends, legend_below, light_grid, look_of
from t3d.reporting.inputs import by_artefact

_RESAMPLES = 2_000
_PANEL = (2.7, 2.5)
"""Inches."""
_SEEDS, _BAND = "Line: mean over training seeds. ", "Band: 95 % bootstrap interval over rollouts."


def draw(experiment: Experiment, wanted: FactorisationFigure, manifests: list[Path]) -> Figure:
    """One panel per set of rollouts, a line per model.

    Args:
        manifests: `factorisation/<model>/<trajectories>.manifest.json` of the teacher and every run of the students,
            in any order.

    Raises:
        As `by_artefact`; DataError: models were scored on different rollouts.
    """
    models = [wanted.teacher, *(key for key in experiment.students if key in wanted.students)]
    artefacts = {
        (model, name): [f"factorisation/{run}/{name}" for run in lineage.runs_of(experiment, model)]
        for model in models
        for name in wanted.trajectories
    }
    needed = [artefact for runs in artefacts.values() for artefact in runs]
    found = by_artefact(experiment, needed, manifests, kind="factorisation")
    width = (ALONE if len(wanted.trajectories) == 1 else _PANEL[0] * len(wanted.trajectories) + 0.4) + LABELS
    figure = Figure(figsize=(width, _PANEL[1]), layout="constrained")
    axes = figure.subplots(1, len(wanted.trajectories), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, wanted.trajectories, strict=True):
        gaps = {model: _mean_over_seeds([found[a] for a in artefacts[model, name]]) for model in models}
        _check_rollouts(name, gaps)
        for model, of_model in gaps.items():
            _draw_line(axis, total_correlation(of_model), look_of(experiment, model))
        axis.set_title(f"{_title(experiment, name)} ({gaps[wanted.teacher]['id'].nunique()} rollouts)", loc="left")
        _scale(axis, sorted(gaps[wanted.teacher]["interval"].unique()))
    axes[0].set_ylabel("Total correlation (nats per step)")
    axes[0].set_ylim(bottom=0)
    # Those of the last panel, `gaps`; a model looks the same in all.
    ends = []
    for model, of_model in gaps.items():
        line = total_correlation(of_model)["value"]
        label = (experiment.students.get(model) or experiment.teachers[model]).label
        ends.append(End(line.index[-1], line.iloc[-1], label, look_of(experiment, model)["color"]))
    label_ends(axes[-1], ends, _PANEL[1] - 0.5)
    several = any(len(runs) > 1 for runs in artefacts.values())
    legend_below(figure, [], [], (_SEEDS if several else "") + _BAND)
    return figure


def _title(experiment: Experiment, trajectories: str) -> str:
    """The label of the benchmark that asks questions of the same domain; of a file's questions, the key."""
    sets = experiment.prompt_sets
    domain = sets[experiment.trajectories[trajectories].prompts].domain
    labels = [spec.label for spec in experiment.benchmarks.values() if sets[spec.prompts].domain == domain]
    return labels[0] if labels and domain != "questions" else trajectories


def total_correlation(gaps: pd.DataFrame) -> pd.DataFrame:
    """Mean conditional total correlation (21) at each decoding interval, and its 95 % bootstrap interval, in nats.

    Rollouts are drawn anew 2000 times, all intervals together; the draws are the same for every model whose rollouts
    are, so that models are compared on them.

    Args:
        gaps: one row per rollout and interval: id, interval, gap, terms.

    Returns:
        Columns value, low, high, indexed by interval.

    Raises:
        DataError: there are no rollouts.
    """
    if gaps.empty:
        raise DataError("an interval over zero rollouts does not exist.")
    wide = gaps.pivot(index="id", columns="interval", values=["gap", "terms"])
    sums, counts = wide["gap"].to_numpy(dtype=float), wide["terms"].to_numpy(dtype=float)
    rng, n = np.random.default_rng(0), len(wide)
    weights = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(_RESAMPLES))
    low, high = np.quantile([(w @ sums) / (w @ counts) for w in weights], [0.025, 0.975], axis=0)
    values = {"value": sums.sum(axis=0) / counts.sum(axis=0), "low": low, "high": high}
    return pd.DataFrame(values, index=wide["gap"].columns)


def _mean_over_seeds(manifests: list[Manifest]) -> pd.DataFrame:
    # A rollout has the same terms whichever model scores it, so a mean of gaps is a mean of total correlations.
    seeds = pd.concat(of_artefact(manifest, GAPS).to_pandas() for manifest in manifests)
    return seeds.groupby(["id", "interval"], as_index=False)[["gap", "terms"]].mean()


def _check_rollouts(name: str, gaps: dict[str, pd.DataFrame]) -> None:
    keys = {model: of_model[["id", "interval", "terms"]] for model, of_model in gaps.items()}
    first, *others = keys
    for model in others:
        if not keys[model].equals(keys[first]):
            raise DataError(
                f"factorisation on {name}: {model} was scored on other rollouts than {first}. Run its stage again."
            )


def _draw_line(axis: Axes, line: pd.DataFrame, look: dict) -> None:
    axis.fill_between(line.index, line["low"], line["high"], color=look["color"], alpha=0.13, linewidth=0)
    axis.plot(line.index, line["value"], markersize=4, clip_on=False, **look)


def _scale(axis: Axes, intervals: list[int]) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xlim(intervals[0] / 2**0.15, intervals[-1] * 2**0.15)
    axis.xaxis.set_major_locator(FixedLocator(intervals))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("Decoding interval (tokens per step)")
    light_grid(axis)
