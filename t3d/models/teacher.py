"""Where the untouched model comes from: shipped weights, or pretraining on the spot."""

import shutil
from pathlib import Path

from t3d import receipts
from t3d.errors import ParameterError
from t3d.models import pretrain
from t3d.models.device import pick_device
from t3d.params import Experiment


def make(experiment: Experiment, name: str, out: Path) -> None:
    """Make teacher `name` of an experiment at `out` (a manifest's path).

    Raises:
        ParameterError: the experiment has no such teacher.
        MissingInputError, CorruptArtefactError: a shipped teacher is not complete.
    """
    if name not in experiment.teachers:
        raise ParameterError(f"experiment {experiment.name} has no teacher {name!r}: {', '.join(experiment.teachers)}")
    spec = experiment.teachers[name]
    device = pick_device(experiment) if spec.source == "pretrain" else "cpu"
    with receipts.making(experiment, f"teachers/{name}", out, device=device) as job:
        if spec.pretraining is not None:
            job.receipt["training"] = pretrain.pretrain(spec.pretraining, experiment.seed, device, job.folder())
        else:
            assert spec.path is not None
            shipped = receipts.read(spec.path + receipts.MANIFEST, kind="teachers")
            shutil.copytree(shipped.folder(), job.folder(), dirs_exist_ok=True)
            job.receipt["shipped"] = {"manifest": str(shipped.path), "sha256": shipped.digest()}
