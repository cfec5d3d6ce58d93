"""Does what is on disk belong to the parameters? `dvc.lock` is only written when it does."""

import filecmp
import tempfile
from collections.abc import Iterable
from pathlib import Path

from t3d import lineage, receipts
from t3d.errors import CorruptArtefactError, DataError, MissingInputError, T3DError
from t3d.params import Experiment
from t3d.progress import Progress
from t3d.prompts import sets
from t3d.receipts import MANIFEST, manifest_path


def models(experiment: Experiment) -> int:
    """Check everything that the tables and figures made unasked need of models.

    Returns:
        How many artefacts were checked.

    Raises:
        T3DError: one is missing, damaged, or was made with other parameters, from other inputs or by other code; the
            message names file and field.
    """
    artefacts = lineage.artefacts_of(experiment, lineage.products_of(experiment).values())
    check(experiment, artefacts, "verify models")
    return len(artefacts)


def tables(experiment: Experiment) -> int:
    """Check the tables made unasked, as `check_table`; returns how many."""
    names = [name for name, table in experiment.tables.items() if not table.on_request]
    for name in names:
        check_table(experiment, name)
    return len(names)


def check_disjoint(prompt_sets: Iterable[Iterable[sets.Prompt]]) -> None:
    """Check that nothing that is learned from is asked: train shares neither id nor text with the other splits.

    Raises:
        DataError: a question is in both; the message names it.
    """
    seen: dict[str, sets.Prompt] = {}
    for prompt in (prompt for prompts in prompt_sets for prompt in prompts):
        # White space and case are no difference between two questions.
        for key in (prompt.id, " ".join(prompt.text.lower().split())):
            other = seen.setdefault(key, prompt)
            if (other.split == "train") != (prompt.split == "train"):
                raise DataError(
                    f"{other.id} of split {other.split} and {prompt.id} of split {prompt.split} ask the same: "
                    f"{prompt.text[:80]!r}. Leave it out of what is learned from."
                )


def check(experiment: Experiment, artefacts: Iterable[str], title: str) -> None:
    """Check files, parameters, inputs and receipt of artefacts, and that no prompt set holds what another asks.

    Raises:
        T3DError: as `models`.
    """
    artefacts = list(artefacts)
    progress = Progress(title, len(artefacts))
    for artefact in artefacts:
        manifest = receipts.read(manifest_path(experiment, artefact))
        if manifest.artefact != artefact:
            raise CorruptArtefactError(f"{manifest.path}: artefact is {manifest.artefact!r}, expected {artefact!r}.")
        receipts.check_recipes(manifest, experiment)
        manifest.check(contents=True)
        _check_inputs(experiment, manifest)
        receipts.check_receipt(manifest, experiment)
        progress.advance(1)
    prompts = [artefact for artefact in artefacts if artefact.startswith("prompts/")]
    check_disjoint([sets.read(receipts.read(manifest_path(experiment, artefact))) for artefact in prompts])


def _check_inputs(experiment: Experiment, manifest: receipts.Manifest) -> None:
    wanted = lineage.inputs_of(experiment, manifest.artefact)
    if manifest.inputs.keys() != set(wanted):
        raise CorruptArtefactError(
            f"{manifest.path}: inputs are {', '.join(manifest.inputs) or 'none'}; {manifest.artefact} is made from "
            f"{', '.join(wanted) or 'nothing'}. Delete it and run its stage again."
        )
    for source, recorded in manifest.inputs.items():
        path = manifest_path(experiment, source)
        # An input need not be here to trust what was made from it; if it is here, it must be the one.
        if path.is_file() and receipts.sha256(path) != recorded:
            raise CorruptArtefactError(
                f"{manifest.path}: inputs.{source} is not the file at {path}, which was made again or edited since. "
                "Run snakemake."
            )


def check_table(experiment: Experiment, name: str) -> None:
    """Check that a table on disk is the one its scores give, byte by byte.

    Raises:
        T3DError: it is not, or a score is missing or does not fit the parameters.
    """
    from t3d.reporting import tables as reports

    path = Path("results") / experiment.name / f"{name}.csv"
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: make it first (snakemake {path}).")
    material = lineage.material_of(experiment, experiment.tables[name], here=True)
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        reports.write(experiment, name, [manifest_path(experiment, artefact) for artefact in material], again)
        if not filecmp.cmp(path, again, shallow=False):
            raise CorruptArtefactError(f"{path} is not what its scores give. Delete it and run snakemake {path}.")


def strays(experiment: Experiment) -> list[Path]:
    """Manifests below `data/<experiment>/` of artefacts that the experiment no longer makes."""
    root = Path("data") / experiment.name
    found = []
    for path in sorted(root.rglob(f"*{MANIFEST}")):
        try:
            lineage.inputs_of(experiment, path.relative_to(root).as_posix().removesuffix(MANIFEST))
            receipts.check_recipes(receipts.read(path), experiment)
        except (KeyError, ValueError, IndexError, T3DError):
            found.append(path)
    return found
