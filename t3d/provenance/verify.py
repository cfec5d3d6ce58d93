"""Does what is on disk belong to the parameters? `dvc.lock` is only written when it does."""

from collections.abc import Iterable
from pathlib import Path

from t3d.errors import CorruptArtefactError, T3DError
from t3d.params import Experiment
from t3d.progress import Progress
from t3d.provenance import lineage, store
from t3d.provenance.store import MANIFEST, manifest_path


def models(experiment: Experiment) -> int:
    """Check everything that the tables and figures made unasked need of models.

    Returns:
        How many artefacts were checked.

    Raises:
        T3DError: one is missing, damaged, or was made with other parameters, from other inputs or by other code; the
            message names file and field.
    """
    artefacts = lineage.artefacts_of(experiment, lineage.targets(experiment).values())
    check(experiment, artefacts, "verify models")
    return len(artefacts)


def check(experiment: Experiment, artefacts: Iterable[str], title: str) -> None:
    """Check files, parameters, inputs and receipt of artefacts.

    Raises:
        T3DError: as `models`.
    """
    artefacts = list(artefacts)
    progress = Progress(title, len(artefacts))
    for artefact in artefacts:
        manifest = store.read(manifest_path(experiment, artefact))
        if manifest.artefact != artefact:
            raise CorruptArtefactError(f"{manifest.path}: artefact is {manifest.artefact!r}, expected {artefact!r}.")
        store.check_recipes(manifest, experiment)
        manifest.check(contents=True)
        _check_inputs(experiment, manifest)
        store.check_receipt(manifest, experiment)
        progress.advance(1)


def _check_inputs(experiment: Experiment, manifest: store.Manifest) -> None:
    wanted = lineage.inputs_of(experiment, manifest.artefact)
    if manifest.inputs.keys() != set(wanted):
        raise CorruptArtefactError(
            f"{manifest.path}: inputs are {', '.join(manifest.inputs) or 'none'}; {manifest.artefact} is made from "
            f"{', '.join(wanted) or 'nothing'}. Delete it and run its stage again."
        )
    for source, recorded in manifest.inputs.items():
        path = manifest_path(experiment, source)
        # An input need not be here to trust what was made from it; if it is here, it must be the one.
        if path.is_file() and store.sha256(path) != recorded:
            raise CorruptArtefactError(
                f"{manifest.path}: inputs.{source} is not the file at {path}, which was made again or edited since. "
                "Run snakemake."
            )


def strays(experiment: Experiment) -> list[Path]:
    """Manifests below `data/<experiment>/` of artefacts that the experiment no longer makes."""
    root = Path("data") / experiment.name
    found = []
    for path in sorted(root.rglob(f"*{MANIFEST}")):
        try:
            lineage.inputs_of(experiment, path.relative_to(root).as_posix().removesuffix(MANIFEST))
            store.check_recipes(store.read(path), experiment)
        except (KeyError, ValueError, IndexError, T3DError):
            found.append(path)
    return found
