"""Files of a source that lie in a folder of this machine (`local:`), and how they get there.

`sources.py` fetches; nothing here asks the hub.
"""

from pathlib import Path

from t3d.errors import MissingInputError
from t3d.params import Experiment, Source

COPY_OR_PIN = "Copy it again; or, if you changed the file, write the new sha256 there."
"""What to do about a local file that is not the pinned one."""


def place_of(experiment: Experiment, name: str) -> str:
    """How messages name a source: the file of parameters, and the field."""
    return f"params/{experiment.name}.yaml, sources.{name}"


def local_file(where: str, source: Source, file: str) -> Path:
    """The path of a file in a source's `local` folder.

    Args:
        where: the source, as `place_of` names it.
        source: it has a `local` folder.
        file: one of its files.

    Raises:
        MissingInputError: it is not there; the message says what to copy where.
    """
    folder = Path(source.local or "").expanduser()
    path = folder / file
    if not path.is_file():
        held = said_of(folder, files_in(folder))
        raise MissingInputError(f"{where}.local: {path} is missing; {held} {how_to_copy(where, source, str(folder))}")
    return path


def missing(experiment: Experiment, name: str) -> str:
    """Which file of a pinned source its `local` folder lacks, and what to do; empty if none, or if it has no folder."""
    source = experiment.sources[name]
    try:
        for file in source.files if source.local else ():
            local_file(place_of(experiment, name), source, file)
    except MissingInputError as error:
        return str(error)
    return ""


def how_to_copy(where: str, source: Source, folder: str) -> str:
    """How the files of a pinned source get into a folder: a command for those that a hub can be asked for."""
    parameters, _, field = where.partition(", ")
    if not source.has_commit:
        # No command: a hub has no such revision, and `repository` may be only a name for the record.
        files = ", ".join(f"{file} (sha256 {digest})" for file, digest in source.files.items())
        return (
            f"Put into {folder}: {files}. Or correct {field}.local: the folder that holds them. They have no commit on "
            f"the hub; the comments in {parameters} may say where they come from."
        )
    kind = " --repo-type dataset" if source.kind == "dataset" else ""
    return (
        "On a machine with network: hf download "
        f"{source.repository}{kind} --revision {source.revision} --local-dir {folder} {' '.join(source.files)}\n"
        f"Then copy {folder} here."
    )


def files_in(folder: Path) -> list[str]:
    """The files of a folder and of those in it, in order; what the hub's client notes beside them is left out."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [file for file in found if not file.startswith(".cache/")]


def said_of(folder: Path, there: list[str]) -> str:
    """What a folder holds, as the end of a sentence."""
    if not folder.is_dir():
        return "there is no such folder."
    return f"it holds {', '.join(there[:5]) or 'no file'}{', ...' if there[5:] else ''}."
