"""Manifests of whole models' products: asked for, made with these parameters, complete.

`t3d/reporting/scores.py` does the same for scores and answers, which have a benchmark and a budget.
"""

from collections.abc import Iterable
from pathlib import Path

from t3d import receipts
from t3d.errors import DataError, MissingInputError
from t3d.params import Experiment
from t3d.receipts import MANIFEST, Manifest


def by_artefact(
    experiment: Experiment, wanted: Iterable[str], manifests: Iterable[Path], kind: str
) -> dict[str, Manifest]:
    """The manifest of every artefact in `wanted`, its files there and of the size they should have.

    Args:
        wanted: `students/t3d-seed0` or `factorisation/t3d-seed0/gsm`.
        manifests: of these artefacts, in any order.
        kind: the first part of their names.

    Raises:
        ParameterError: one was made with other parameters.
        CorruptArtefactError: a file is no manifest, of another kind, or does not match what it lists.
        MissingInputError: a file or an artefact is not there.
        DataError: one is not asked for, or given twice.
    """
    wanted = list(wanted)
    found: dict[str, Manifest] = {}
    for path in manifests:
        manifest = receipts.read(path, kind=kind)
        receipts.check_recipes(manifest, experiment)
        # Content is checked where it is read: a student's weights are gigabytes that no figure looks at.
        manifest.check(contents=False)
        if manifest.artefact not in wanted or manifest.artefact in found:
            raise DataError(f"{path}: {manifest.artefact} is not asked for, or given twice. Leave it out.")
        found[manifest.artefact] = manifest
    missing = [Path("data", experiment.name, artefact + MANIFEST) for artefact in wanted if artefact not in found]
    if missing:
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise MissingInputError(f"{missing[0]} is not among the inputs{more}: make it first (snakemake {missing[0]}).")
    return found
