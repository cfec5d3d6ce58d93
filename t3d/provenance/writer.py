"""Write an artefact: files, manifest and receipt appear together when it is complete, or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t3d.errors import ParameterError
from t3d.params import Experiment
from t3d.provenance import environment, recipes, verify
from t3d.provenance.files import exclusive
from t3d.provenance.store import MANIFEST, RECEIPT, SCHEMA, Manifest, manifest_path, sha256


@dataclass
class ArtefactWriter:
    """An artefact being made; files go to `folder` or `file`, notes to `facts` and `receipt`."""

    base: Path
    partial: Path
    facts: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] = field(default_factory=dict)

    def folder(self) -> Path:
        """The folder that becomes the artefact."""
        path = self.partial / self.base.name
        path.mkdir(exist_ok=True)
        return path

    def file(self, suffix: str) -> Path:
        """The path of the file that becomes `<artefact><suffix>`."""
        return self.partial / (self.base.name + suffix)


def run_key(experiment: Experiment, artefact: str, inputs: Sequence[Manifest]) -> str:
    """What `artefact` is made of, its recipe and its inputs: states of its training belong to no other."""
    return recipes.canonical([recipes.digest(experiment, artefact), *(manifest.digest() for manifest in inputs)])


@contextmanager
def writing(
    experiment: Experiment, artefact: str, out: str | Path, inputs: list[Manifest] | None = None, device: str = "cpu"
) -> Iterator[ArtefactWriter]:
    """Make `artefact`: on success its files, manifest and receipt are moved to `out`; on failure nothing changes.

    Args:
        experiment: whose parameters are recorded.
        artefact: its name, see `t3d.provenance`.
        out: path of the manifest, `<artefact>.manifest.json`.
        inputs: manifests of what it is made from.
        device: recorded in the receipt.

    Raises:
        ParameterError, CorruptArtefactError: an input does not fit (`verify.check`), or `out` is no place for it.
        BusyError: another process makes it.
    """
    out = Path(out)
    if not out.name.endswith(MANIFEST) or out.name == MANIFEST:
        raise ParameterError(f"--out must end in {MANIFEST}, found {out}")
    own, data = manifest_path(experiment, artefact).absolute(), Path("data").absolute()
    name = out.absolute().relative_to(data).parts[0] if out.absolute().is_relative_to(data) else ""
    taken = name == experiment.name or Path("params", f"{name}.yaml").is_file()
    if taken and out.absolute() != own:
        raise ParameterError(f"--out is {out}, where another artefact belongs; {artefact} belongs in {own}.")
    digests = {artefact: recipes.digest(experiment, artefact)}
    for manifest in inputs or []:
        verify.check(experiment, manifest)
        digests |= manifest.recipes
    base = Path(str(out).removesuffix(MANIFEST))
    with exclusive(base.with_name(base.name + ".partial"), artefact) as partial:
        job = ArtefactWriter(base, partial)
        begun = environment.begin()
        yield job
        files = _listing(partial)
        content = {
            "schema": SCHEMA,
            "artefact": artefact,
            "recipe": digests[artefact],
            "recipes": digests,
            "inputs": {m.artefact: m.digest() for m in inputs or []},
            "files": files,
            "facts": job.facts,
        }
        _write_json(partial / out.name, content)
        receipt = {
            "artefact": artefact,
            "params": recipes.artefact_params(experiment, artefact),
            **environment.since(begun, device),
            **job.receipt,
        }
        _write_json(partial / (base.name + RECEIPT), receipt)
        # safetensors writes files that their owner alone can read. All get the mode of a file written here.
        mode = (partial / out.name).stat().st_mode
        for name in files:
            (partial / name).chmod(mode)
        _move(partial, out)


def _move(partial: Path, out: Path) -> None:
    """Replace the artefact: the old manifest goes first, the new one comes last."""
    out.unlink(missing_ok=True)
    for entry in sorted(partial.iterdir(), key=lambda p: p.name == out.name):
        target = out.parent / entry.name
        if entry.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        os.replace(entry, target)


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): {"size": p.stat().st_size, "sha256": sha256(p)} for p in files}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
