"""Figures: PDF and PNG of the same drawing, equal inputs give equal bytes.

    t3d figure --experiment pocket --name accuracy --material ... --out results/pocket/figures/accuracy.pdf

Each kind of figure has a module: `accuracy.py`, `commits.py`, `training.py`, `factorisation.py`; what they share is in
`style.py`, and `inputs.py` refuses files that do not fit the parameters.
"""

from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from t3d.errors import ParameterError
from t3d.params import AccuracyFigure, CommitFigure, Experiment, TrainingFigure
from t3d.provenance.files import atomic_write
from t3d.reporting.figures import accuracy, commits, factorisation, training
from t3d.reporting.figures.style import STYLE

_PNG_DPI = 200


def write(experiment: Experiment, name: str, manifests: list[Path], out_pdf: Path) -> None:
    """Write figure `name` to `out_pdf`, and a PNG of 200 dots per inch beside it; equal inputs give equal bytes.

    Args:
        manifests: of what it is drawn from, in any order: scores for an accuracy figure, answers for a commit figure,
            students for a training figure, `factorisation/<model>/<trajectories>` for a factorisation figure.

    Raises:
        ParameterError: the experiment has no such figure, or an input was made with other parameters.
        MissingInputError: an input is not among the manifests, or a file that one lists is not there.
        CorruptArtefactError: a file does not match its manifest, or is not what its stage writes.
        DataError: a manifest is not asked for, or models were asked different questions.
    """
    if name not in experiment.figures:
        known = ", ".join(experiment.figures) or "none"
        raise ParameterError(f"params/{experiment.name}.yaml has no figure {name!r}. Figures there: {known}.")
    caption = experiment.figures[name].caption
    # A reader's own matplotlibrc must not change the figure.
    with matplotlib.style.context(["default", STYLE]):
        figure = _drawn(experiment, name, manifests)
        with atomic_write(out_pdf) as pdf, atomic_write(out_pdf.with_suffix(".png")) as png:
            figure.savefig(pdf, format="pdf", metadata={"Title": caption, "CreationDate": None})
            figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Title": caption, "Software": None})


def _drawn(experiment: Experiment, name: str, manifests: list[Path]) -> Figure:
    wanted = experiment.figures[name]
    if isinstance(wanted, AccuracyFigure):
        return accuracy.draw(experiment, wanted, manifests)
    if isinstance(wanted, CommitFigure):
        return commits.draw(experiment, wanted, manifests)
    if isinstance(wanted, TrainingFigure):
        return training.draw(experiment, wanted, manifests)
    return factorisation.draw(experiment, wanted, manifests)
