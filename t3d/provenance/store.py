"""Manifests and receipts: reading them, and comparing files with them.

`<artefact>.manifest.json` lists files, sizes, sha256, the recipe digests of the artefact and of everything it was made
from: nothing in it varies between equal runs. `<artefact>.receipt.json` has what varies: time, device, versions, speed.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from t3d.errors import AGAIN, CorruptArtefactError, DataError, MissingInputError
from t3d.params import Experiment
from t3d.params.json_files import exactly, open_record, read_json
from t3d.provenance import lineage

SCHEMA = 1
MANIFEST, RECEIPT = ".manifest.json", ".receipt.json"
INDEX = "published.sha256"
"""What lists the files of an experiment's archive; see `archive.py`."""
_TICK = 2 * 10**9


class File(TypedDict):
    """What a manifest says of a file."""

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@exactly
@dataclass(frozen=True)
class _Content:
    schema: int
    artefact: str
    recipe: str
    recipes: dict[str, str]
    inputs: dict[str, str]
    files: dict[str, File]
    facts: dict[str, Any]


@open_record
class _Receipt(TypedDict, total=False):
    """What a receipt may say; `decoding` is there where a model decoded."""

    artefact: str
    params: dict[str, Any]
    git_commit: str | None
    device: str
    finished: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    decoding: dict[str, Any]


@dataclass(frozen=True)
class Manifest(_Content):
    """A manifest that was read.

    `base` is the artefact's path without suffix; `recipes` maps the artefact and all it comes from to recipe digests,
    `inputs` what it was made from to the sha256 of the manifests.
    """

    path: Path

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
                again = _advice().of_missing(path, self.path, entry["sha256"])
                raise MissingInputError(f"{path} is missing, though {self.path} lists it. {again}")
            if path.stat().st_size != entry["size"]:
                fault = f"{path.stat().st_size} bytes, {self.path} says {entry['size']}"
            elif contents and sha256(path) != entry["sha256"]:
                fault = f"the content does not match the sha256 in {self.path}"
            else:
                continue
            raise CorruptArtefactError(f"{path}: {fault}. {_advice().of_damaged(path, self.path, entry['sha256'])}")

    def check_count(self, name: str, found: int) -> None:
        """Compare how many rows were found with what `facts` says of them; raises CorruptArtefactError."""
        if found != self.facts.get(name, found):
            raise CorruptArtefactError(
                f"{self.path}: facts.{name} is {self.facts.get(name)!r}, the file has {found} rows. {AGAIN}"
            )

    def check_inputs(self, paths: Mapping[str, Path]) -> None:
        """Compare the manifests that this artefact was made from with those at `paths`.

        An input need not be here to trust what was made from it; if it is here, it must be the one.

        Raises:
            CorruptArtefactError: one is another than it was.
        """
        for name, recorded in self.inputs.items():
            path = paths.get(name)
            if path is not None and path.is_file() and sha256(path) != recorded:
                raise CorruptArtefactError(
                    f"{self.path}: inputs.{name} is not the file at {path}, which was made again or edited since. Make "
                    f"{self.artefact} again."
                )


def manifest_path(experiment: Experiment, artefact: str) -> Path:
    """Where an artefact's manifest lies, below the working directory."""
    return Path("data", experiment.name, artefact + MANIFEST)


def owner(path: Path) -> str | None:
    """The name in `data/<name>/` or `results/<name>/` below which a path lies; None elsewhere."""
    return path.parts[1] if path.parts[:1] in (("data",), ("results",)) and path.parts[2:] else None


def making(path: Path) -> str:
    """The command that makes a file of an experiment; a file that is of none has no command."""
    name = owner(path)
    return "a command that writes it" if name is None else _snakemake(name, str(path))


def making_all(experiment: Experiment) -> str:
    """The command that makes an experiment's tables and figures, but those on request, and all behind them."""
    return _snakemake(experiment.name)


def archived(experiment: str, paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Those of these files that an experiment's archive holds, each with its sha256; none if there is no archive."""
    index = Path("results", experiment, INDEX)
    if not index.is_file():
        return []
    seen = index.stat()
    digests = _digests(index.absolute(), seen.st_size, seen.st_mtime_ns)
    return [(path, digests[path.as_posix()]) for path in paths if path.as_posix() in digests]


@lru_cache(maxsize=4)
def _digests(index: Path, *_seen: int) -> dict[str, str]:
    lines = index.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _advice() -> ModuleType:
    """What knows how to get a file back; it asks this module."""
    from t3d.provenance import advice

    return advice


def pulling(experiment: str) -> str:
    """The command that unpacks an experiment's archive."""
    return f"t3d pull scores --experiment {experiment}"


def pulling_verdicts(experiment: str, scores: Iterable[Path]) -> str:
    """How to get the verdicts of scores that are not here; an empty text if no archive holds one of these manifests."""
    return f"Verdicts come with {pulling(experiment)}." if archived(experiment, scores) else ""


def _snakemake(experiment: str, *targets: str) -> str:
    return " ".join(["snakemake", *targets, "--cores all --config", f"experiment={experiment}"])


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
        raise MissingInputError(f"{path} is missing: {_advice().of_absent_manifest(path)}.")
    try:
        return _read(path, kind)
    except CorruptArtefactError as error:
        if not str(error).endswith(AGAIN):
            raise
        raise CorruptArtefactError(str(error).removesuffix(AGAIN) + _advice().of_manifest(path)) from error


def _read(path: Path, kind: str | None) -> Manifest:
    manifest = Manifest(**vars(read_json(path, _Content)), path=path)
    if manifest.schema != SCHEMA:
        raise CorruptArtefactError(f"{path}: schema {manifest.schema}, this version reads {SCHEMA}.")
    if manifest.recipes.get(manifest.artefact) != manifest.recipe:
        raise CorruptArtefactError(f"{path}: recipes lacks that of {manifest.artefact} itself. {AGAIN}")
    base = path.name.removesuffix(MANIFEST)
    for name in manifest.files:
        below = PurePosixPath(name)
        own = name.startswith((f"{base}.", f"{base}/")) and name != path.name
        if not own or ".." in below.parts or str(below) != name:
            raise CorruptArtefactError(f"{path}: files names {name!r}, which is no part of {base}. {AGAIN}")
    if kind is not None and not manifest.artefact.startswith(kind + "/"):
        raise CorruptArtefactError(f"{path} describes {manifest.artefact}, expected one of {kind}/.")
    return manifest


def find(path: Path) -> Manifest | None:
    """The manifest at a path, or None where it or one of its files is not here; raises as `read` if it is damaged."""
    if not path.is_file():
        return None
    manifest = read(path)
    return manifest if all((path.parent / name).is_file() for name in manifest.files) else None


def read_receipt(manifest: Manifest) -> dict[str, Any]:
    """The receipt beside a manifest.

    Raises:
        MissingInputError: it is not there.
        CorruptArtefactError: it is no receipt.
    """
    path = Path(f"{manifest.base}{RECEIPT}")
    try:
        receipt: Any = read_json(path, _Receipt)
        return receipt
    except (MissingInputError, CorruptArtefactError) as error:
        again = _advice().of_receipt(path, manifest.path)
        raise type(error)(f"{str(error).removesuffix(AGAIN)}{again}") from error


def decoding_of(manifest: Manifest) -> dict[str, Any]:
    """What the receipt of answers or scores says of the decoding's speed; raises as `read_receipt`."""
    if (decoding := read_receipt(manifest).get("decoding")) is None:
        path = Path(f"{manifest.base}{RECEIPT}")
        raise CorruptArtefactError(f"{path} has no decoding. {_advice().of_receipt(path, manifest.path)}")
    return decoding


def find_receipt(experiment: Experiment, artefact: str) -> dict[str, Any] | None:
    """The receipt of an artefact, or None where it is not here or cannot be read."""
    try:
        return read_receipt(read(manifest_path(experiment, artefact)))
    except (MissingInputError, CorruptArtefactError):
        return None


def read_inputs(experiment: Experiment, artefact: str, paths: Iterable[Path]) -> list[Manifest]:
    """Read the manifests of what `artefact` is made from; every verb that makes an artefact begins with this.

    Args:
        experiment: whose artefact it is.
        artefact: its name, see `t3d.provenance`.
        paths: of these manifests, in any order.

    Returns:
        All of them, in the order of `lineage.inputs_of`.

    Raises:
        ParameterError: the experiment makes no such artefact.
        DataError: one is of another artefact, is given twice, or is not given.
        MissingInputError, CorruptArtefactError: as `read`, or one was made from another version of one beside it.
    """
    wanted = lineage.inputs_of(experiment, artefact)
    made_from = f"{artefact} is made from {', '.join(wanted) or 'nothing'}"
    found: dict[str, Manifest] = {}
    for manifest in map(read, paths):
        if manifest.artefact not in wanted:
            raise DataError(f"{manifest.path} is {manifest.artefact}; {made_from}.")
        if found.setdefault(manifest.artefact, manifest) is not manifest:
            raise DataError(f"{manifest.path} and {found[manifest.artefact].path} both are {manifest.artefact}.")
    for name in wanted:
        if name not in found:
            raise DataError(f"{made_from}: give {manifest_path(experiment, name)} too.")
    for manifest in found.values():
        manifest.check_inputs({name: other.path for name, other in found.items()})
    return [found[name] for name in wanted]


def sha256(path: Path) -> str:
    """sha256 of a file's content, in hex. A process reads a file once, and again when it was changed."""
    seen = path.stat()
    # Clocks of file systems tick every 4 ms, some every 2 s: what was changed just now may change again unnoticed.
    if time.time_ns() - seen.st_mtime_ns < _TICK:
        return _hash(path)
    return _hash_once(path.absolute(), seen.st_size, seen.st_mtime_ns, seen.st_ino)


@lru_cache(maxsize=2**16)
def _hash_once(path: Path, *_seen: int) -> str:
    return _hash(path)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
