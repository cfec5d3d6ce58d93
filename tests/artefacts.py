"""Artefacts that a test needs only as what another is made from."""

from pathlib import Path

from t3d.params import Experiment
from t3d.provenance import lineage, store, writer


def inputs_of(experiment: Experiment, root: Path, artefact: str) -> list[store.Manifest]:
    """Manifests of what an artefact is made from, below `root`; one that is not there holds nothing but its name."""
    found = []
    for name in lineage.inputs_of(experiment, artefact):
        path = root / f"{name}{store.MANIFEST}"
        if not path.exists():
            with writer.writing(experiment, name, path, inputs_of(experiment, root, name)) as job:
                job.file(".txt").write_text(name)
        found.append(store.read(path))
    return found
