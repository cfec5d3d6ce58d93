"""The manifests that a table or figure is made from: those that it needs and no others, made with these parameters."""

from collections.abc import Iterable
from pathlib import Path

from t3d.errors import AGAIN, CorruptArtefactError, DataError, MissingInputError
from t3d.params import Experiment
from t3d.provenance import store, verify
from t3d.provenance.store import Manifest


def by_artefact(
    experiment: Experiment, wanted: Iterable[str], manifests: Iterable[Path], kind: str
) -> dict[str, Manifest]:
    """The manifest of every artefact in `wanted`. Its files are compared with it when they are read, not here.

    Args:
        wanted: `scores/t3d-seed0/gsm/b8s2`, `students/t3d-seed0` or alike.
        manifests: of these artefacts, in any order.
        kind: the first part of their names.

    Raises:
        ParameterError: one was made with other parameters.
        CorruptArtefactError: a file is no manifest, or that of another kind or of an artefact with another place.
        MissingInputError: a manifest, its receipt or an artefact is not there.
        DataError: one is of another experiment, is not asked for, or is given twice.
    """
    wanted = list(wanted)
    by_name: dict[str, Manifest] = {}
    for path in manifests:
        manifest = store.read(path, kind=kind)
        named = store.manifest_path(experiment, manifest.artefact)
        if Path(path).is_relative_to("data") and Path(path) != named:
            own = Path("data", experiment.name)
            if not Path(path).is_relative_to(own):
                raise DataError(f"{path} is of another experiment than {experiment.name}; give the files below {own}.")
            raise CorruptArtefactError(f"{path} is the manifest of {manifest.artefact}; its place is {named}. {AGAIN}")
        verify.check(experiment, manifest, receipt=True)
        if manifest.artefact not in wanted or manifest.artefact in by_name:
            raise DataError(f"{path}: {manifest.artefact} is not asked for, or given twice. Leave it out.")
        by_name[manifest.artefact] = manifest
    missing = [store.manifest_path(experiment, artefact) for artefact in wanted if artefact not in by_name]
    if missing:
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise MissingInputError(
            f"{missing[0]} is not among the {kind}{more}: make it first ({store.making(missing[0])})."
        )
    return by_name
