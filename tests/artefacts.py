"""Artefacts that a test needs only as what another is made from."""

from pathlib import Path

from t3d import lineage, receipts
from t3d.params import Experiment


def inputs_of(experiment: Experiment, root: Path, artefact: str) -> list[receipts.Manifest]:
    """Manifests of what an artefact is made from, below `root`; one that is not there holds nothing but its name."""
    found = []
    for name in lineage.inputs_of(experiment, artefact):
        path = root / f"{name}{receipts.MANIFEST}"
        if not path.exists():
            with receipts.making(experiment, name, path, inputs_of(experiment, root, name)) as job:
                job.file(".txt").write_text(name)
        found.append(receipts.read(path))
    return found
