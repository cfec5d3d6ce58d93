"""Snakemake's own records, kept with what was published.

Beside each output Snakemake notes in `.snakemake/metadata` the parameters, code and input checksums it was made with.
Without these notes it would take a changed parameter for none and a fresh file time for a change. `provenance/` keeps
them in git, one line per output, so that a clone knows what its artefacts came from.
"""

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from t3d.errors import CorruptArtefactError, MissingInputError

METADATA = Path(".snakemake") / "metadata"
PROVENANCE = Path("provenance")
_LONGEST_NAME = 254


def path_of(experiment: str) -> Path:
    """The file that keeps an experiment's records."""
    return PROVENANCE / f"{experiment}.jsonl"


def has(output: str) -> bool:
    """Whether Snakemake knows how an output was made."""
    return _place(output).is_file()


def collect() -> dict[str, dict[str, Any]]:
    """Output -> record, of everything Snakemake made here and what is still there."""
    found = {}
    for path in METADATA.rglob("*"):
        if path.is_file():
            # The parts of a long name are folders that begin with @.
            name = "".join(part.removeprefix("@") for part in path.relative_to(METADATA).parts)
            output = urlsafe_b64decode(name).decode()
            record = json.loads(path.read_text())
            if Path(output).exists() and not record.get("incomplete"):
                found[output] = record
    return dict(sorted(found.items()))


def save(experiment: str, records: dict[str, dict[str, Any]]) -> Path:
    """Write the records of an experiment.

    Raises:
        CorruptArtefactError: a record holds a path of this machine.
    """
    here = str(Path.cwd())
    path = path_of(experiment)
    lines = [json.dumps({"output": output, **record}, sort_keys=True) for output, record in records.items()]
    for line in lines:
        if here in line:
            raise CorruptArtefactError(f"{METADATA}: a record holds the path {here}: {line[:300]}")
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in lines))
    os.replace(partial, path)
    return path


def read(experiment: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Output and record of everything an experiment published.

    Raises:
        MissingInputError: it published nothing.
        CorruptArtefactError: a line is not a record.
    """
    path = path_of(experiment)
    if not path.is_file():
        raise MissingInputError(f"{path} is missing: experiment {experiment} has not been published.")
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            output = record.pop("output")
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise CorruptArtefactError(f"{path}, line {number}: not a record ({error!r}).") from error
        yield output, record


def restore(experiment: str, wanted: Callable[[str], bool]) -> int:
    """Give Snakemake the records of the published outputs that are here and `wanted`; returns how many."""
    count = 0
    for output, record in read(experiment):
        if Path(output).exists() and wanted(output):
            target = _place(output)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name[:200] + ".partial")
            partial.write_text(json.dumps(record))
            os.replace(partial, target)
            count += 1
    # Snakemake takes a folder of records without this one for one of an older version.
    (METADATA.parent / "incomplete").mkdir(parents=True, exist_ok=True)
    return count


def _place(output: str) -> Path:
    name = urlsafe_b64encode(output.encode()).decode()
    parts = [name[i : i + _LONGEST_NAME] for i in range(0, len(name), _LONGEST_NAME)]
    return METADATA.joinpath(*("@" + part for part in parts[:-1]), parts[-1])
