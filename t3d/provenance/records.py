"""Snakemake's own records, published with what they describe.

Beside each output Snakemake notes in `.snakemake/metadata` the parameters, code and input checksums it was made with.
Without these notes it would miss a changed parameter, and take a new file time for a change. The archive of an
experiment holds them, one line per output, so that a clone knows what its artefacts came from.
"""

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

from t3d.errors import CorruptArtefactError, reading
from t3d.params import Experiment
from t3d.params.json_files import parse_json, read_bytes, read_json

METADATA = Path(".snakemake") / "metadata"
_INCOMPLETE = METADATA.parent / "incomplete"
"""Snakemake's marks of jobs that began; one is removed after its job's record is written."""
Records = dict[str, dict[str, Any]]
"""Output -> what Snakemake noted of it."""
_LONGEST_NAME = 254


def has(output: str) -> bool:
    """Whether Snakemake knows how an output was made, or that its job was killed: then it runs the job again."""
    return any(_place(output, folder).is_file() for folder in (METADATA, _INCOMPLETE))


def of(output: str) -> dict[str, Any]:
    """What Snakemake noted of an output; nothing if it does not know it, or was killed while it wrote the note."""
    try:
        return json.loads(_place(output).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def collect() -> Records:
    """The record of everything Snakemake made here and what is still there."""
    found = {}
    for path in METADATA.rglob("*"):
        if path.is_file():
            # The parts of a long name are folders that begin with @.
            name = "".join(part.removeprefix("@") for part in path.relative_to(METADATA).parts)
            with reading(path, "Delete it: Snakemake then takes its output for one of unknown origin."):
                output = urlsafe_b64decode(name).decode()
            record = read_json(path, dict[str, Any], "Delete it.")
            if Path(output).exists() and not record.get("incomplete"):
                found[output] = record
    return dict(sorted(found.items()))


def to_lines(experiment: Experiment) -> str:
    """The records of an experiment's outputs, a line of JSON each.

    Raises:
        CorruptArtefactError: a record holds a path of this machine.
    """
    here = str(Path.cwd())
    noted = {output: record for output, record in collect().items() if _is_of(experiment, output)}
    lines = [json.dumps({"output": output, **record}, sort_keys=True) for output, record in noted.items()]
    for line in lines:
        if here in line:
            raise CorruptArtefactError(f"{METADATA}: a record holds the path {here}: {line[:300]}")
    return "".join(line + "\n" for line in lines)


def read(experiment: Experiment, path: Path) -> Records:
    """Read records that were published.

    Raises:
        CorruptArtefactError: a line is not a record of one of the experiment's outputs.
    """
    name, noted = experiment.name, {}
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        where = f"{path.name}, line {number}"
        record = parse_json(line, dict[str, Any], where, f"It is not a record of experiment {name}.")
        output = record.pop("output", None)
        if not isinstance(output, str) or not _is_of(experiment, output):
            raise CorruptArtefactError(f"{where}: {output!r} is not an output of experiment {name}.")
        noted[output] = record
    return noted


def restore(noted: Records) -> None:
    """Give Snakemake the records of those outputs that are here."""
    for output, record in noted.items():
        if Path(output).exists():
            target = _place(output)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name[:200] + ".partial")
            partial.write_text(json.dumps(record))
            os.replace(partial, target)
    # Snakemake takes a folder of records without this one for one of an older version.
    _INCOMPLETE.mkdir(parents=True, exist_ok=True)


def _is_of(experiment: Experiment, output: str) -> bool:
    """Whether an output is an experiment's own, or a copy of one of its tables."""
    folders = (f"data/{experiment.name}/", f"results/{experiment.name}/")
    return (output.startswith(folders) and ".." not in Path(output).parts) or output in {
        f"results/{name}.csv" for name in experiment.tables
    }


def _place(output: str, folder: Path = METADATA) -> Path:
    name = urlsafe_b64encode(output.encode()).decode()
    parts = [name[i : i + _LONGEST_NAME] for i in range(0, len(name), _LONGEST_NAME)]
    return folder.joinpath(*("@" + part for part in parts[:-1]), parts[-1])
