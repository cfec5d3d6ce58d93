"""Artefacts that tests need: made by their stages, or empty where a test needs only what another is made from."""

import io
import json
import lzma
import tarfile
from collections.abc import Sequence
from pathlib import Path

from t3d.distillation import trainer
from t3d.evaluation import answers, factorisation, scores, verdicts
from t3d.params import Experiment
from t3d.prompts import sets, sources
from t3d.provenance import lineage, store, writer
from t3d.teachers import teacher
from t3d.trajectories import generations, rollout


def inputs_of(experiment: Experiment, root: Path, artefact: str) -> list[store.Manifest]:
    """Manifests of what an artefact is made from, below `root`; one that is not there holds nothing but its name."""
    found = []
    for name in lineage.inputs_of(experiment, artefact):
        path = root / f"{name}{store.MANIFEST}"
        if not path.exists():
            with writer.writing(experiment, name, path, inputs_of(experiment, root, name)) as job:
                job.file(".txt").write_text(name)
        found.append(store.read(path))
    return found


def made(experiment: Experiment, folder: Path, *artefacts: str) -> Path:
    """Make artefacts and what they come from by their stages' functions, unless they are there; the last manifest."""
    for artefact in artefacts:
        at = folder / f"{artefact}{store.MANIFEST}"
        if at.is_file():
            continue
        origins = [made(experiment, folder, source) for source in lineage.inputs_of(experiment, artefact)]
        kind, name, *rest = artefact.split("/")
        if kind == "sources":
            sources.make(experiment, name, folder / "work", at)
        elif kind == "teachers":
            teacher.make(experiment, name, at, *origins)
        elif kind == "prompts":
            sets.make(experiment, name, origins[0], at, *origins[1:])
        elif kind == "generations":
            generations.make(experiment, name, rest[0], *origins, at)
        elif kind == "verdicts":
            verdicts.make(experiment, name, rest[0], origins, at)
        elif kind == "trajectories":
            rollout.make(experiment, name, rest[0], *origins, at)
        elif kind == "students":
            trainer.make(experiment, name, origins[0], origins[1:], folder / "work", at)
        elif kind == "answers":
            answers.make(experiment, rest[0], rest[1], *origins, at)
        elif kind == "scores":
            scores.make(experiment, *origins, at)
        elif kind == "factorisation":
            factorisation.make(experiment, origins[0], rest[0], origins[1:], at)
    return at


def pack_texts(experiment: str, benchmarks: dict[str, Sequence[dict | str]], mode: int = 0o644) -> Path:
    """Write `results/<experiment>/answers.tar.xz` below the working directory; returns its path.

    Args:
        experiment: its name.
        benchmarks: benchmark -> lines: a question's `id` and `answers`, or the text of a line.
        mode: of the members.
    """
    path = Path("results", experiment, "answers.tar.xz")
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wb") as file, tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for benchmark, lines in benchmarks.items():
            content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()
            member = tarfile.TarInfo(f"answers/{benchmark}.jsonl")
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return path
