"""Weights, trajectories and answers: DVC pushes them to a remote of the user's own and fetches them from it.

A remote may be anybody's. DVC compares files with their md5 (`verify` in .dvc/config), but uses the names in a folder's
list of files as they are, `../` too. So the list is checked here before a file is put into place.
"""

import configparser
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError, PublishError, reading, short
from t3d.params.yaml_files import read_yaml
from t3d.provenance import store

STAGES = ("models", "tables")
"""Stages of `dvc.yaml`; the first one's output is `data/<experiment>`."""
_LOCK = Path("dvc.lock")


def check_versioned(experiment: str) -> None:
    """Check that `dvc.yaml` lists an experiment.

    Raises:
        ParameterError: it does not.
    """
    path = Path("dvc.yaml")
    with reading(path, "Restore it (git checkout dvc.yaml)."):
        stages = read_yaml(path)["stages"]
        without = [stage for stage in STAGES if experiment not in stages[stage]["foreach"]]
    if without:
        raise ParameterError(
            f"dvc.yaml: experiment {experiment} is not in `foreach` of {', '.join(without)}; add it there first."
        )


def push(experiment: str, remote: str | None) -> None:
    """Write what is here into `dvc.lock`, and push it to a remote, the configured one unless given."""
    _dvc("commit", "--force", *(f"{stage}@{experiment}" for stage in STAGES))
    _dvc("push", *_named(remote), f"{STAGES[0]}@{experiment}")


def fetch(experiment: str, folders: list[Path], remote: str | None) -> None:
    """Fetch folders below `data/<experiment>`.

    Raises:
        MissingInputError: `dvc.lock` does not hold the experiment.
        CorruptArtefactError: the remote's list of files is not the published one, or has names that no artefact has.
        PublishError: the remote does not hold them, or local files are in the way.
    """
    digest = _digest(experiment)
    _dvc("fetch", *_named(remote), *map(str, folders))
    cache = Path(_dvc("cache", "dir").strip(), "files", "md5")
    listing = cache / digest[:2] / digest[2:]
    root = Path("data", experiment)
    if not listing.is_file():
        raise PublishError(
            f"the remote does not hold {root} as {_LOCK} names it. Ask whoever published it for the right remote, and "
            "set it: dvc remote modify --local local url ..."
        )
    try:
        files = read_listing(listing.read_bytes(), digest)
    except ValueError as error:
        # DVC itself would believe it later.
        listing.unlink()
        raise CorruptArtefactError(
            f"the remote's list of the files in {root} {error}. Nothing was put into place; fetch from another remote "
            "(--remote), and tell whoever keeps this one."
        ) from error
    for name, md5 in files.items():
        path = root / name
        if any(path.is_relative_to(folder) for folder in folders) and not (cache / md5[:2] / md5[2:]).is_file():
            raise PublishError(f"the remote does not hold {path}, or holds it damaged; fetch from another (--remote).")
    try:
        # Not --force: DVC leaves a local file alone that it does not know.
        _dvc("checkout", *map(str, folders))
    except PublishError as error:
        if changed := _changed(root, folders, files):
            shown = "\n  ".join([*changed[:10], *(["..."] if changed[10:] else [])])
            raise PublishError(
                f"not as they were published, and left as they are: {len(changed)} of the files here. Move "
                f"or delete them, then pull again:\n  {shown}"
            ) from error
        raise


def _changed(root: Path, folders: list[Path], files: dict[str, str]) -> list[str]:
    """Files below `folders` that are not those of a list; receipts and work in progress are in no list."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if name.endswith(store.RECEIPT) or re.search(r"\.(partial|states)/", name):
            continue
        with path.open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != files.get(name):
                found.append(str(path))
    return found


def read_listing(content: bytes, digest: str) -> dict[str, str]:
    """Read DVC's list of the files in a folder.

    Args:
        content: of an object `.dir`.
        digest: its name, md5 and `.dir`.

    Returns:
        File, relative to the folder -> md5.

    Raises:
        ValueError: it has another md5, a name that leads out of the folder, or another form; the message says which.
    """
    if hashlib.md5(content).hexdigest() + ".dir" != digest:
        raise ValueError(f"is not the published one: its md5 is not that in {_LOCK}")
    try:
        files = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(content)}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("is none of DVC's") from error
    for name, md5 in files.items():
        path = PurePosixPath(name)
        inside = path.parts and ".." not in path.parts and not path.is_absolute() and str(path) == name
        if not inside or not name.isprintable() or not re.fullmatch("[0-9a-f]{32}", md5):
            raise ValueError(f"holds {short(repr(name))} with md5 {short(repr(md5))}")
    return files


def command(experiment: str) -> str | None:
    """The command that fetches everything of an experiment, if something was pushed and there is a remote to ask."""
    if not _is_pushed(experiment):
        return None
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read([".dvc/config", ".dvc/config.local"])
        name = config["core"]["remote"]
        url = config[f"'remote \"{name}\"'"]["url"]
    except (configparser.Error, KeyError):
        return None
    # Nothing is known of a remote on another machine until it is asked. A relative path begins at .dvc.
    return f"t3d pull all --experiment {experiment}" if "://" in url or Path(".dvc", url).is_dir() else None


def _is_pushed(experiment: str) -> bool:
    return _LOCK.is_file() and f"\n  {STAGES[0]}@{experiment}:\n".encode() in _LOCK.read_bytes()


def _digest(experiment: str) -> str:
    """md5 of the list of files in `data/<experiment>`, as published."""
    if not _is_pushed(experiment):
        raise MissingInputError(
            f"{_LOCK} does not hold {STAGES[0]}@{experiment}: the models of experiment {experiment} were not published."
        )
    with reading(_LOCK, f"Restore it (git checkout {_LOCK})."):
        outs = read_yaml(_LOCK)["stages"][f"{STAGES[0]}@{experiment}"]["outs"]
        (found,) = [out["md5"] for out in outs if out["path"] == f"data/{experiment}"]
    if not re.fullmatch(r"[0-9a-f]{32}\.dir", str(found)):
        raise CorruptArtefactError(
            f"{_LOCK}: md5 of data/{experiment} is {found!r}; restore it (git checkout {_LOCK})."
        )
    return found


def _named(remote: str | None) -> list[str]:
    return ["--remote", remote] if remote else []


def _dvc(*arguments: str) -> str:
    # -P: a file of the working directory must not be taken for a module.
    command = [sys.executable, "-P", "-m", "dvc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-2000:]
        if "Traceback" in said:
            # Of a broken .dvc/config, for example; the last line says so.
            said = said.splitlines()[-1]
        held = (
            "\nA DVC that was killed leaves its lock. If none is running, on any machine that shares this folder, "
            "remove .dvc/tmp/lock and .dvc/tmp/rwlock, then run the command again."
        )
        raise PublishError(f"dvc {arguments[0]} failed:\n{said}{held if 'lock' in said.lower() else ''}")
    return done.stdout
