"""What of an experiment's artefacts is missing or does not fit, going by manifests; no content is hashed."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from t3d.errors import MissingInputError, T3DError
from t3d.params import Experiment, Product, TrainingFigure
from t3d.provenance import lineage, recipes, store
from t3d.provenance.store import manifest_path

MISSING = "missing"
"""The fault of an artefact that is not here, or not all of it."""


def missing_of(experiment: Experiment, product: Product, here: bool = False) -> dict[str, Path]:
    """Artefact that a table or figure is made from -> its first file that is not here, or that is no manifest.

    A training figure reads the logs of students; their weights need not be here.

    Args:
        experiment: whose product it is.
        product: a table or figure.
        here: as for `material_of`.
    """
    missing = {}
    for artefact in lineage.inputs_of_target(experiment, product, here):
        path = manifest_path(experiment, artefact)
        try:
            listed = [path.parent / name for name in store.read(path).files]
            files = [file for file in listed if file.name == lineage.LOG or not isinstance(product, TrainingFigure)]
        except T3DError:
            missing[artefact] = path
            continue
        if absent := [file for file in files if not file.is_file()]:
            missing[artefact] = absent[0]
    return missing


def faults(experiment: Experiment, artefacts: Iterable[str], thorough: bool = True) -> Iterator[tuple[str, str]]:
    """Artefact -> why it has to be made again: `MISSING`, another reason, or nothing. No content is hashed.

    Args:
        experiment: whose parameters they should fit.
        artefacts: their names, inputs before what is made from them.
        thorough: look for the files that a manifest lists, compare their sizes, and compare the inputs that are here
            with those it names. If not, a manifest and the parameters it records are all that is looked at.
    """

    @cache
    def recipe(artefact: str) -> str | None:
        try:
            return recipes.digest(experiment, artefact)
        except T3DError:
            return None

    @cache
    def digest(path: Path) -> str | None:
        return store.sha256(path) if path.is_file() else None

    origins: dict[str, set[str]] = {}
    for artefact in artefacts:
        origins[artefact] = {artefact}.union(*(origins[source] for source in lineage.inputs_of(experiment, artefact)))
        path = manifest_path(experiment, artefact)
        if not path.is_file():
            yield artefact, MISSING
            continue
        try:
            manifest = store.read(path)
            if thorough:
                manifest.check(contents=False)
        except MissingInputError:
            # Only its manifest was published, or a file was deleted.
            yield artefact, MISSING
            continue
        except T3DError as error:
            yield artefact, str(error)
            continue
        # Its own parameters first: what was made from another thing is told by that thing's.
        others = [made for made, found in manifest.recipes.items() if recipe(made) != found]
        if others:
            yield artefact, f"other parameters of {artefact if artefact in others else others[0]}"
            continue
        if wrong := origins[artefact] ^ manifest.recipes.keys():
            yield artefact, f"its manifest is wrong about {min(wrong)}, going by what it is made from"
            continue
        # An input need not be here to trust what was made from it; if it is here, it must be the one.
        inputs = [
            source
            for source, found in (manifest.inputs if thorough else {}).items()
            if digest(manifest_path(experiment, source)) not in (None, found)
        ]
        yield artefact, f"{inputs[0]} was made again since" if inputs else ""
