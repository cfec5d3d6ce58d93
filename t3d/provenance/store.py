"""What made this file, and does it fit? Manifests are the edges between stages, receipts tell how a run went.

`<artefact>.manifest.json` lists files, sizes, sha256, the recipe digests of the artefact and of everything it was made
from: nothing in it varies between equal runs. `<artefact>.receipt.json` has what varies: time, device, versions, speed.
Every artefact is written under a temporary name and moved when complete, its manifest last.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError
from t3d.params import Experiment
from t3d.provenance import lineage, recipes

SCHEMA = 1
MANIFEST, RECEIPT = ".manifest.json", ".receipt.json"
_AGAIN = "Delete it and run its stage again."
_FIELDS = ("artefact", "recipe", "recipes", "inputs", "files", "facts")


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read.

    `base` is the artefact's path without suffix; `recipes` maps the artefact and all it comes from to recipe digests,
    `inputs` what it was made from to the sha256 of the manifests.
    """

    path: Path
    artefact: str
    recipe: str
    recipes: dict[str, str]
    inputs: dict[str, str]
    files: dict[str, dict[str, Any]]
    facts: dict[str, Any]

    @property
    def base(self) -> Path:
        """Path of the artefact's folder, or of its file without suffix."""
        return Path(str(self.path).removesuffix(MANIFEST))

    def digest(self) -> str:
        """sha256 of the manifest file itself."""
        return sha256(self.path)

    def file(self, suffix: str) -> Path:
        """The artefact's file with `suffix`, the whole artefact checked.

        Raises:
            MissingInputError, CorruptArtefactError: as `check`.
        """
        self.check(contents=True)
        name = self.base.name + suffix
        if name not in self.files:
            raise MissingInputError(f"{self.path} lists no {name}: it holds {', '.join(self.files) or 'no files'}.")
        return self.path.parent / name

    def folder(self) -> Path:
        """The artefact's folder, every file checked.

        Raises:
            MissingInputError, CorruptArtefactError: as `check`.
        """
        self.check(contents=True)
        return self.base

    def check(self, contents: bool) -> None:
        """Compare the files on disk with the manifest.

        Args:
            contents: compare sha256 too, not only the sizes.

        Raises:
            MissingInputError: a listed file is not there.
            CorruptArtefactError: a file has another size or digest than listed.
        """
        for name, entry in self.files.items():
            path = self.path.parent / name
            if not path.is_file():
                raise MissingInputError(f"{path} is missing, though {self.path} lists it. Run its stage again.")
            if path.stat().st_size != entry["size"]:
                raise CorruptArtefactError(
                    f"{path}: {path.stat().st_size} bytes, {self.path} says {entry['size']}. Delete {self.path} and "
                    "run its stage again."
                )
            if contents and sha256(path) != entry["sha256"]:
                raise CorruptArtefactError(
                    f"{path}: the content does not match the sha256 in {self.path}. Delete {self.path} and run "
                    "its stage again."
                )


def manifest_path(experiment: Experiment, artefact: str) -> Path:
    """Where an artefact's manifest lies, below the working directory."""
    return Path("data", experiment.name, artefact + MANIFEST)


def read(path: str | Path, kind: str | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: `<artefact>.manifest.json`.
        kind: the first part of the artefact's name that is expected, `teachers` for example.

    Raises:
        MissingInputError: there is no such file.
        CorruptArtefactError: it is not a manifest of this schema, or of another kind of artefact.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: make it first (snakemake {path}).")
    try:
        content = json.loads(path.read_text())
        manifest = Manifest(path, *(content[k] for k in _FIELDS))
        if content["schema"] != SCHEMA:
            raise CorruptArtefactError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}.")
        if unknown := content.keys() - {"schema", *_FIELDS}:
            raise CorruptArtefactError(f"{path}: unknown key {min(unknown)!r}. {_AGAIN}")
        if dict(manifest.recipes).get(manifest.artefact) != manifest.recipe:
            raise CorruptArtefactError(f"{path}: recipes lacks that of {manifest.artefact} itself. {_AGAIN}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptArtefactError(f"{path} is not a manifest ({error!r}). {_AGAIN}") from error
    if kind is not None and not manifest.artefact.startswith(kind + "/"):
        raise CorruptArtefactError(f"{path} describes {manifest.artefact}, expected one of {kind}/.")
    return manifest


def read_receipt(manifest: Manifest) -> dict[str, Any]:
    """The receipt beside a manifest.

    Raises:
        MissingInputError: it is not there.
        CorruptArtefactError: it is not JSON.
    """
    if not (path := Path(str(manifest.base) + RECEIPT)).is_file():
        raise MissingInputError(f"{path} is missing: delete {manifest.path} and run its stage again.")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CorruptArtefactError(f"{path} is not JSON ({error}). {_AGAIN}") from error


def find_receipt(experiment: Experiment, artefact: str) -> dict[str, Any] | None:
    """The receipt of an artefact, or None where it is not here or cannot be read."""
    try:
        return read_receipt(read(manifest_path(experiment, artefact)))
    except (MissingInputError, CorruptArtefactError):
        return None


def read_inputs(experiment: Experiment, artefact: str, paths: Iterable[Path | None]) -> list[Manifest]:
    """Read the manifests of what `artefact` is made from; every verb that makes an artefact begins with this.

    Args:
        experiment: whose artefact it is.
        artefact: its name, see `t3d.provenance.recipes`.
        paths: of these manifests, in any order; None stands for one that was not given.

    Returns:
        All of them, in the order of `lineage.inputs_of`.

    Raises:
        ParameterError: the experiment makes no such artefact.
        DataError: one is of another artefact, is not given, or was made from another version of one beside it.
        MissingInputError, CorruptArtefactError: as `read`.
    """
    try:
        wanted = lineage.inputs_of(experiment, artefact)
    except (KeyError, IndexError) as error:
        raise ParameterError(f"experiment {experiment.name} makes no {artefact!r}: unknown {error}.") from error
    made_from = f"{artefact} is made from {', '.join(wanted) or 'nothing'}"
    found: dict[str, Manifest] = {}
    for manifest in (read(path) for path in paths if path is not None):
        if manifest.artefact not in wanted:
            raise DataError(f"{manifest.path} is {manifest.artefact}; {made_from}.")
        if found.setdefault(manifest.artefact, manifest) is not manifest:
            raise DataError(f"{manifest.path} and {found[manifest.artefact].path} both are {manifest.artefact}.")
    for name in wanted:
        if name not in found:
            raise DataError(f"{made_from}: give {manifest_path(experiment, name)} too.")
    for manifest in found.values():
        for name in manifest.inputs.keys() & found.keys():
            if manifest.inputs[name] != found[name].digest():
                raise DataError(f"{manifest.path} was made from another {name} than {found[name].path}; make it again.")
    return [found[name] for name in wanted]


def check_recipes(manifest: Manifest, experiment: Experiment) -> None:
    """Check that an artefact and all it was made from were made with the parameters of `experiment`.

    Raises:
        ParameterError: they were not; the message names the artefact that no longer fits.
        CorruptArtefactError: the manifest leaves one of them out, or names another.
    """
    for artefact, found in manifest.recipes.items():
        if recipes.digest(experiment, artefact) != found:
            raise ParameterError(
                f"{manifest.path}: {artefact} was made with other parameters than params/{experiment.name}.yaml holds "
                "now. Run snakemake to make it again, or restore the parameters."
            )
    origins = set(lineage.origins_of(experiment, [manifest.artefact]))
    if wrong := origins ^ manifest.recipes.keys():
        name = min(wrong)
        told = f"recipes lacks {name}, which" if name in origins else f"recipes names {name}, which is nothing that"
        raise CorruptArtefactError(f"{manifest.path}: {told} {manifest.artefact} is made from. {_AGAIN}")


def check_receipt(manifest: Manifest, experiment: Experiment) -> None:
    """Check that the receipt beside a manifest is its own and records the parameters of `experiment`.

    Raises:
        ParameterError: it records others; the message names file and field.
        MissingInputError, CorruptArtefactError: as `read_receipt`, or it belongs to another artefact.
    """
    path, receipt = f"{manifest.base}{RECEIPT}", read_receipt(manifest)
    if receipt.get("artefact") != manifest.artefact:
        raise CorruptArtefactError(
            f"{path}: artefact is {receipt.get('artefact')!r}, {manifest.path} says {manifest.artefact!r}. Delete both "
            "and run its stage again."
        )
    wanted = _flat(recipes.artefact_params(experiment, manifest.artefact))
    found = _flat(receipt.get("params"))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ParameterError(
                f"{path}: params{name} is {found.get(name)!r}, params/{experiment.name}.yaml asks for "
                f"{wanted.get(name)!r}. Delete {manifest.path} and run snakemake to make it again."
            )


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """`.a.b` -> value of nested parameters."""
    if not isinstance(content, dict):
        return {name: content}
    return {key: value for k, inner in content.items() for key, value in _flat(inner, f"{name}.{k}").items()}


def sha256(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
