"""Where in its block and at which denoising step tokens are committed, from the step maps of recorded answers.

The teacher's map shows shares: left-to-right decoding is a diagonal, and a column that is dark at step 1 is a position
that it commits at once. The others' show the difference from it, since maps of one teacher's students look alike.
"""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, MaxNLocator

from t3d.errors import CorruptArtefactError
from t3d.params import Budget, CommitFigure, Experiment
from t3d.provenance import lineage
from t3d.provenance.parquet import ANSWERS, of_artefact
from t3d.provenance.store import Manifest
from t3d.reporting import scores

_COLUMNS = ["response_ids", "step_map", "response_tokens"]
_WIDTH = 1.25
"""Of a panel, inches; a panel of S steps and B positions is S/B as high, but no less than `_LEAST`."""
_LEAST = 0.5
_TITLE = 20
"""Characters that fit above a panel."""
_LAST_TICKED = 8
"""Blocks up to this size have a tick at every position."""


def draw(experiment: Experiment, wanted: CommitFigure, manifests: list[Path]) -> Figure:
    """A row of heat maps per benchmark and budget, a column per method; one colour scale of shares, one of differences.

    Args:
        manifests: `answers/<model>/<benchmark>/<budget>.manifest.json`, one per cell, in any order.

    Raises:
        CorruptArtefactError: a step map does not fit its answer or its budget.
        ParameterError, MissingInputError, DataError: as `scores.load`.
    """
    found = scores.by_cell(experiment, lineage.score_keys_of(experiment, wanted), manifests, kind="answers")
    methods = lineage.rows_of(experiment, wanted)
    kinds = [(column, Budget.parse(text)) for column in wanted.benchmarks for text in wanted.budgets]
    minus = f" \N{MINUS SIGN} {methods[0].label}"
    titles = [textwrap.wrap(row.label + (minus if number else ""), _TITLE) for number, row in enumerate(methods)]
    heights = [max((budget.steps or 1) / budget.block_size, _LEAST) * _WIDTH for _, budget in kinds]
    figure = Figure(figsize=(_WIDTH * len(methods) + 2.3, sum(heights) + 0.42 * len(kinds) + 0.5), layout="constrained")
    axes = figure.subplots(len(kinds), len(methods), squeeze=False, height_ratios=heights)
    panels = []
    for column, budget in kinds:
        cells = [
            [
                (run, row.benchmarks[column], str(budget))
                for run in lineage.runs_of(experiment, row.models[column], wanted.seeds)
            ]
            for row in methods
        ]
        panels.append([_mean_over_seeds([found[cell] for cell in seeds], budget) for seeds in cells])
    highest = max(float(np.nanmax(line[0])) for line in panels)
    panels = [[line[0], *(panel - line[0] for panel in line[1:])] for line in panels]
    furthest = max((float(np.nanmax(np.abs(panel))) for line in panels for panel in line[1:]), default=0.0)
    for number, (line, (column, budget), shares) in enumerate(zip(axes, kinds, panels, strict=True)):
        images = [_draw_panel(line[0], shares[0], highest, None)]
        images += [
            _draw_panel(axis, panel, highest, furthest) for axis, panel in zip(line[1:], shares[1:], strict=True)
        ]
        for axis in line[1:]:
            axis.set_yticklabels([])
        line[0].set_ylabel("Denoising step", fontsize=8)
        heading = f"{experiment.benchmarks[column].label}, block size {budget.block_size}, {budget.steps} steps"
        # Above the first row the methods stand between the heading and the panel.
        line[0].set_title(heading + ("" if number else "\n" * max(map(len, titles))), loc="left", pad=4)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title("\n".join(title), fontsize=8, pad=4)
    for axis in axes[-1]:
        axis.set_xlabel("Position in block", fontsize=8)
    said = [(images[0], "Share of the position's tokens")]
    said += [(image, f"Difference from {methods[0].label}") for image in images[1:2]]
    for image, text in said:
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=25, pad=0.02)
        bar.set_label(text, fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7)
    return figure


def commit_shares(answers: pd.DataFrame, block_size: int, steps: int) -> np.ndarray:
    """Share of a position's tokens that each step commits, `[steps, block_size]`: columns sum to 1.

    A column is NaN where there is no token. The tokens of an answer up to its end-of-text token are counted, in blocks
    without prompt: a block that the prompt begins has fewer tokens, and so fewer steps, than a whole one.

    Args:
        answers: response_ids and step_map, to the end of the last block, and response_tokens, those that count.
        block_size: tokens per block, B.
        steps: denoising steps per block, S.

    Raises:
        CorruptArtefactError: a step map is not as long as its answer, or has steps outside 1..S.
    """
    counts = np.zeros((steps, block_size))
    for row, answer in enumerate(answers.itertuples(index=False)):
        step_map, length = np.asarray(answer.step_map, dtype=int), len(answer.response_ids)
        if len(step_map) != length or not ((step_map >= 1) & (step_map <= steps)).all():
            raise CorruptArtefactError(
                f"answer {row}: {len(step_map)} steps within {step_map.min(initial=steps)}..{step_map.max(initial=1)} "
                f"for {length} tokens; expected one step of 1..{steps} per token."
            )
        counted = np.arange(length % block_size, answer.response_tokens)
        np.add.at(counts, (step_map[counted] - 1, (counted - length) % block_size), 1)
    totals = counts.sum(axis=0)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


def _mean_over_seeds(manifests: list[Manifest], budget: Budget) -> np.ndarray:
    shares = []
    for manifest in manifests:
        answers = of_artefact(manifest, ANSWERS, _COLUMNS).to_pandas()
        try:
            shares.append(commit_shares(answers, budget.block_size, budget.steps or 1))
        except CorruptArtefactError as error:
            raise CorruptArtefactError(f"{manifest.path}: {error} Delete it and run its stage again.") from error
    return np.mean(shares, axis=0)


def _draw_panel(axis: Axes, shown: np.ndarray, highest: float, furthest: float | None) -> AxesImage:
    """Shares from 0 to `highest`, or differences up to `furthest` both ways."""
    steps, block_size = shown.shape
    image = axis.imshow(
        shown,
        cmap="Blues" if furthest is None else "RdBu",
        vmin=0.0 if furthest is None else -furthest,
        vmax=highest if furthest is None else furthest,
        origin="lower",
        extent=(0.5, block_size + 0.5, 0.5, steps + 0.5),
        aspect="auto",
        interpolation="nearest",
    )
    for ticks, count in ((axis.xaxis, block_size), (axis.yaxis, steps)):
        whole = count <= _LAST_TICKED
        ticks.set_major_locator(FixedLocator(range(1, count + 1)) if whole else MaxNLocator(4, integer=True))
    axis.tick_params(labelsize=7, length=2)
    axis.spines[:].set_visible(False)
    return image
