"""Files of the Hugging Face hub: fetched once, checked against their pin, recorded. Nothing that is code is fetched.

A source of `params/` names a repository, a commit and the sha256 of every file. One that is not pinned is never used:
fetching it prints the pin instead. Machines without network take the same files from a folder (`local:`).
"""

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError, SourceError, T3DError
from t3d.params import Experiment, Source
from t3d.params.data import NO_COMMIT
from t3d.progress import Progress
from t3d.prompts.local import COPY_OR_PIN, files_in, how_to_copy, local_file, place_of, said_of
from t3d.provenance import store, writer

WANTED = {
    "model": (".safetensors", ".gguf", ".json", ".txt", ".jinja", ".model"),
    "dataset": (".parquet", ".jsonl", ".json"),
}
"""Kind of repository -> endings of the files that are fetched of it when none are named."""

_AT_ONCE = 4


def make(experiment: Experiment, name: str, work: Path, out: Path) -> None:
    """Fetch source `name` of an experiment, check every file, and keep it.

    Args:
        experiment: whose `sources` has `name`.
        name: key of the source.
        work: folder for downloads in progress, which an interrupted fetch continues.
        out: manifest to write; the folder of files lies beside it.

    Raises:
        ParameterError: there is no such source, or it is not pinned; the message is the pin to paste.
        MissingInputError: `local` does not hold every file; the message says which to copy where.
        CorruptArtefactError: a file is not the pinned one.
        SourceError: the hub does not have it, or cannot be reached.
    """
    if name not in experiment.sources:
        raise ParameterError(f"experiment {experiment.name} has no source {name!r}: {', '.join(experiment.sources)}.")
    source = experiment.sources[name]
    where = place_of(experiment, name)
    if not source.pinned:
        raise ParameterError(
            f"{where} is not pinned. Paste this there (`t3d pin --experiment {experiment.name}` prints all such):\n\n"
            + _as_yaml({name: _pin(where, source)})
        )
    with writer.writing(experiment, f"sources/{name}", out) as job:
        downloads = work / name
        progress = Progress(f"fetch {name}", len(source.files))
        for file, wanted in source.files.items():
            path = local_file(where, source, file) if source.local else _download(where, source, file, downloads)
            if (found := store.sha256(path)) != wanted:
                if not source.local:
                    path.unlink()
                raise CorruptArtefactError(
                    f"{path}: sha256 is {found}, {where}.files asks for {wanted}. "
                    + (COPY_OR_PIN if source.local else "It was removed; fetch it again, or correct the pin.")
                )
            target = job.folder() / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.local:
                shutil.copyfile(path, target)  # an edit of one's own file must not reach what is recorded
            else:
                link_or_copy(path, target)
            progress.advance(1)
        job.receipt["source"] = {"repository": source.repository, "revision": source.revision}
    shutil.rmtree(downloads, ignore_errors=True)


def link_or_copy(path: Path, target: Path) -> None:
    """Give `path` a second name `target`, so that gigabytes lie once; on another disk, copy it."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)


def _download(where: str, source: Source, file: str, folder: Path) -> Path:
    if not source.has_commit:
        raise MissingInputError(f"{where}.local is not set. {how_to_copy(where, source, 'a folder')}")
    try:
        path = hf_hub_download(
            source.repository, file, revision=source.revision, repo_type=source.kind, local_dir=folder
        )
    except (HTTPError, OSError) as error:
        raise _explained(where, source, error) from error
    return Path(path)


def _explained(where: str, source: Source, error: Exception) -> SourceError:
    """What went wrong with the hub and what to do about it, in one sentence."""
    name = f"{source.kind} {source.repository}"
    if isinstance(error, GatedRepoError):
        return SourceError(f"{where}: {name} asks you to accept its terms: do so on the hub, then run `hf auth login`.")
    if isinstance(error, RepositoryNotFoundError):
        return SourceError(f"{where}: the hub has no {name} (or it is private: run `hf auth login`).")
    if isinstance(error, RevisionNotFoundError):
        return SourceError(
            f"{where}: {name} has no revision {source.revision}. Remove `revision` and fetch again: the pin is printed."
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return SourceError(f"{where}: {name} has no such file at {source.revision}: {str(error).splitlines()[0]}")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        return SourceError(f"{where}: {error}. What was downloaded is kept; make room and fetch again.")
    folder = source.local or f"hub/{source.repository}"
    return SourceError(
        f"{where}: the hub cannot be reached ({type(error).__name__}). Without network, set `local: {folder}` there. "
        + how_to_copy(where, source, folder)
    )


def pins(experiment: Experiment) -> tuple[str, list[T3DError]]:
    """The YAML that pins the sources of an experiment that are not pinned yet, to what the hub holds now.

    Returns:
        The YAML, empty if it holds no source; and of every source that cannot be pinned now, why.
    """
    unpinned = {name: source for name, source in experiment.sources.items() if not source.pinned}
    progress = Progress("pin", len(unpinned))
    found, faults = {}, []
    # Side by side: the client tries a hub that does not answer for 25 seconds, for each of them.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        pins = {name: pool.submit(_pin, place_of(experiment, name), source) for name, source in unpinned.items()}
        for name, pin in pins.items():
            try:
                found[name] = pin.result()
            except T3DError as error:
                faults.append(error)
            progress.advance(1)
    return _as_yaml(found) if found else "", faults


def _as_yaml(pinned: dict[str, dict[str, Any]]) -> str:
    return yaml.safe_dump({"sources": pinned}, sort_keys=False, width=200)


def _pin(where: str, source: Source) -> dict[str, Any]:
    """A source as it is pinned to what the hub (or its `local` folder) holds now."""
    try:
        revision, files = _local_pin(where, source) if source.local else _hub_pin(source)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _explained(where, source, error) from error
    except (HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise ParameterError(
            f"{where} is not pinned (it needs `revision` and the sha256 of its `files`), and the hub cannot be "
            f"asked for the pin ({type(error).__name__}). Run `t3d pin` on a machine with network: it prints what to "
            f"paste. Or set `local:` to a folder that holds {source.repository}."
        ) from error
    return source.model_dump(exclude_none=True) | {"revision": revision, "files": files}


def _local_pin(where: str, source: Source) -> tuple[str, dict[str, str]]:
    folder = Path(source.local or "").expanduser()
    there = files_in(folder)
    do = f"Put the files there, or correct {where.partition(', ')[2]}.local."
    names = list(source.files) or [file for file in there if file.endswith(WANTED[source.kind])]
    if missing := [file for file in names if file not in there]:
        held = said_of(folder, there)
        raise MissingInputError(f"{where}.files: {folder} does not hold {', '.join(missing)}; {held} {do}")
    if not names:
        endings = " or ".join(WANTED[source.kind])
        raise MissingInputError(f"{where}.local: {folder} holds no {endings}; {said_of(folder, there)} {do}")
    # Files without a history have no commit; they get a name that cannot be mistaken for one.
    return source.revision or NO_COMMIT, {file: store.sha256(folder / file) for file in names}


def _hub_pin(source: Source) -> tuple[str, dict[str, str]]:
    info = HfApi().repo_info(
        source.repository, revision=source.revision, repo_type=source.kind, files_metadata=True, timeout=30
    )
    there = {sibling.rfilename: sibling for sibling in getattr(info, "siblings", None) or ()}
    names = list(source.files) or [file for file in there if file.endswith(WANTED[source.kind])]
    missing = [file for file in names if file not in there]
    if missing:
        raise ParameterError(f"{source.repository} has no {', '.join(missing)}; it has {', '.join(sorted(there))}.")
    assert info.sha is not None
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(names):
            # Large files: the hub knows their sha256. The others are fetched.
            large = there[file].lfs
            digests[file] = (
                large.sha256
                if large is not None
                else store.sha256(
                    Path(
                        hf_hub_download(
                            source.repository, file, revision=info.sha, repo_type=source.kind, local_dir=folder
                        )
                    )
                )
            )
    return info.sha, digests
