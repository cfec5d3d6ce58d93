"""Does an artefact fit? It is here, whole, and was made with these parameters from these inputs.

`fault` answers for one artefact; `t3d verify`, `t3d status`, tables, jobs and the rules of Snakemake all ask it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from t3d.errors import CorruptArtefactError, ParameterError, T3DError
from t3d.params import Experiment, Product, TrainingFigure
from t3d.progress import Progress
from t3d.provenance import advice, lineage, recipes, store
from t3d.provenance.store import MANIFEST, RECEIPT, Manifest, manifest_path

Files = Literal["sizes", "contents"]


def fault(
    experiment: Experiment, artefact: str, *, files: Files | None = None, receipt: bool = False
) -> T3DError | None:
    """Why an artefact has to be made again, in a sentence that names file and field; None if it fits.

    Args:
        experiment: whose artefact it is, and whose parameters it should fit.
        artefact: its name, see `t3d.provenance`.
        files: compare the sizes of its files, or their contents, with its manifest, and those inputs that are here with
            what it was made from.
        receipt: compare its receipt, too.

    Returns:
        A MissingInputError if the artefact is not here, or not all of it; for the others see `check`.
    """
    try:
        check(experiment, read(experiment, artefact), files=files, receipt=receipt)
    except T3DError as error:
        return error
    return None


def read(experiment: Experiment, artefact: str) -> Manifest:
    """The manifest of an artefact; raises as `store.read`, and CorruptArtefactError if it is another one's."""
    manifest = store.read(manifest_path(experiment, artefact))
    if manifest.artefact != artefact:
        raise CorruptArtefactError(f"{manifest.path}: artefact is {manifest.artefact!r}, expected {artefact!r}.")
    return manifest


def check(experiment: Experiment, manifest: Manifest, *, files: Files | None = None, receipt: bool = False) -> None:
    """Check an artefact whose manifest was read, wherever it is; the arguments are those of `fault`.

    Raises:
        ParameterError: it, or what it was made from, was made with other parameters.
        CorruptArtefactError: a file is damaged, or it was made from other things.
        MissingInputError: a file or the receipt is not here.
    """
    path, artefact = manifest.path, manifest.artefact
    # Its own parameters first: a fault of an input is named after the input.
    for made in sorted(manifest.recipes, key=lambda name: name != artefact):
        if recipes.digest(experiment, made) != manifest.recipes[made]:
            raise ParameterError(
                f"{path}: {made} was made with other parameters than params/{experiment.name}.yaml holds now. Make it "
                "again, or restore the parameters."
            )
    origins = set(lineage.origins_of(experiment, [artefact]))
    if wrong := origins ^ manifest.recipes.keys():
        name = min(wrong)
        told = f"lacks {name}, which" if name in origins else f"names {name}, which is nothing that"
        raise CorruptArtefactError(
            f"{path}: recipes {told} {artefact} is made from. Delete it and run its stage again."
        )
    if files is not None:
        manifest.check(contents=files == "contents")
        inputs = lineage.inputs_of(experiment, artefact)
        if manifest.inputs.keys() != set(inputs):
            raise CorruptArtefactError(
                f"{path}: inputs are {', '.join(manifest.inputs) or 'none'}; {artefact} is made from "
                f"{', '.join(inputs) or 'nothing'}. Delete it and run its stage again."
            )
        manifest.check_inputs({name: manifest_path(experiment, name) for name in inputs})
    if receipt:
        _check_receipt(experiment, manifest)


def _check_receipt(experiment: Experiment, manifest: Manifest) -> None:
    """Tables take speeds from receipts, which are in no manifest: one may be of another run."""
    path, content = Path(f"{manifest.base}{RECEIPT}"), store.read_receipt(manifest)
    if content.get("artefact") != manifest.artefact:
        raise CorruptArtefactError(
            f"{path}: artefact is {content.get('artefact')!r}, {manifest.path} says {manifest.artefact!r}. "
            + advice.of_receipt(path, manifest.path)
        )
    wanted = _flat(recipes.artefact_params(experiment, manifest.artefact))
    recorded = _flat(content.get("params"))
    for name in sorted(wanted.keys() | recorded.keys()):
        if wanted.get(name) != recorded.get(name):
            raise ParameterError(
                f"{path}: params{name} is {recorded.get(name)!r}, params/{experiment.name}.yaml asks for "
                f"{wanted.get(name)!r}. {advice.of_receipt(path, manifest.path)}"
            )


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """`.a.b` -> value of nested parameters."""
    if not isinstance(content, dict):
        return {name: content}
    return {key: value for k, inner in content.items() for key, value in _flat(inner, f"{name}.{k}").items()}


def models(experiment: Experiment) -> int:
    """Check everything that the default tables and figures need of models, contents and receipts too.

    Returns:
        How many artefacts were checked.

    Raises:
        T3DError: the first fault.
    """
    artefacts = lineage.artefacts_of(experiment, lineage.targets(experiment).values())
    check_all(experiment, artefacts)
    return len(artefacts)


def check_all(experiment: Experiment, artefacts: Iterable[str]) -> None:
    """Check artefacts, contents and receipts too; raises the first fault."""
    artefacts = list(artefacts)
    progress = Progress("verify", len(artefacts))
    for artefact in artefacts:
        if error := fault(experiment, artefact, files="contents", receipt=True):
            raise error
        progress.advance(1)


def strays(experiment: Experiment) -> list[Path]:
    """Manifests below `data/<experiment>/` of artefacts that the experiment no longer makes."""
    return [path for path, artefact in made(experiment).items() if fault(experiment, artefact)]


def made(experiment: Experiment) -> dict[Path, str]:
    """Every manifest below `data/<experiment>/` -> the artefact whose place that is."""
    root = Path("data", experiment.name)
    paths = sorted(root.rglob(f"*{MANIFEST}"))
    return {path: path.relative_to(root).as_posix().removesuffix(MANIFEST) for path in paths}


def missing_of(experiment: Experiment, product: Product, here: bool = False) -> dict[str, Path]:
    """Artefact that a table or figure is made from -> its first file that is not here, or that is no manifest.

    A training figure reads the logs of students; their weights need not be here.

    Args:
        experiment: whose product it is.
        product: a table or figure.
        here: as for `lineage.inputs_of_target`.
    """
    missing = {}
    for artefact in lineage.inputs_of_target(experiment, product, here):
        path = manifest_path(experiment, artefact)
        try:
            listed = [path.parent / name for name in store.read(path).files]
        except T3DError:
            missing[artefact] = path
            continue
        logs_only = isinstance(product, TrainingFigure)
        absent = [file for file in listed if not file.is_file() and (file.name == lineage.LOG or not logs_only)]
        if absent:
            missing[artefact] = absent[0]
    return missing
