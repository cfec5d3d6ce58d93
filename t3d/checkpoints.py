"""Resumable training states in a folder of their own: written whole or not at all, the last two kept.

Those of a student are in `work/<experiment>/<run>/`, those of a teacher that is pretrained beside its artefact.

A state belongs to one recipe and one set of inputs; a changed recipe starts clean. One process writes a state as
`step-0000050.pt`; of several each writes its part, `step-0000050.0-of-2.pt` and `step-0000050.1-of-2.pt`, and the state
exists when all of them do. Any number of processes can go on from it.
"""

import os
import re
import shutil
import zipfile
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from t3d import processes
from t3d.errors import TrainingError

_KEPT = 2
_NAME = re.compile(r"step-(\d+)(?:\.(\d+)-of-(\d+))?\.pt")


class Checkpoints:
    """The training states of one run. Of several processes, all call `save` and `latest` together."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Use `folder` for the run called `identity` (recipe and input digests); another run's states are removed.

        So are parts whose state was never completed: the next attempt must not complete it with its own.

        Raises:
            TrainingError: the folder cannot be written.
        """
        self.folder, self.identity = folder, identity
        # The others write no earlier than all have met once more, to look for the latest state.
        if not processes.is_main():
            return
        marker = folder / "identity"
        try:
            if folder.exists() and (not marker.is_file() or marker.read_text() != identity):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            marker.write_text(identity)
            complete = {path for parts in self._states().values() for path in parts}
            for path in folder.glob("step-*"):
                if path not in complete:
                    path.unlink()
        except OSError as error:
            raise TrainingError(f"cannot keep training states in {folder}: {error}.") from error

    def save(self, step: int, part: dict[str, Any]) -> None:
        """Write the state after `step`: of several processes, each its part.

        Raises:
            TrainingError: it could not be written (full disk); earlier states are intact.
        """
        with processes.together():
            self._write(step, part)
        if processes.is_main():
            for old in sorted(self._states())[:-_KEPT]:
                self._forget(old)

    def latest(self) -> dict[str, Any] | None:
        """The newest state that can be read, or this process's part of it; None if there is none.

        Raises:
            TrainingError: processes see different states.
        """
        while True:
            step = max(self._states(), default=0)
            with processes.together():
                if (seen := int(processes.largest(step))) != step:
                    raise TrainingError(
                        f"{self.folder}: one process reads the state of step {seen}, another that of step {step}. "
                        "Every node must see this folder (--work); run again."
                    )
            if step == 0:
                return None
            part = self._read(self._states()[step])
            if not processes.any_of(part is None):
                return part
            with processes.together():
                if processes.is_main():
                    self._forget(step)

    def remove(self) -> None:
        """Forget the run: what it trains is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, step: int, part: dict[str, Any]) -> None:
        rank, count = processes.rank(), processes.count()
        path = self.folder / f"step-{step:07d}{f'.{rank}-of-{count}' if count > 1 else ''}.pt"
        partial = path.with_suffix(".partial")
        try:
            torch.save(part, partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise TrainingError(
                f"cannot write the training state {path}: {error}. The last good state is kept; make room and retry."
            ) from error

    def _read(self, parts: list[Path]) -> dict[str, Any] | None:
        """This process's part of a state; None if a file is broken."""
        if len(parts) == processes.count():
            return _load(parts[processes.rank()])
        # Mapped, so that of a state in other parts (64 GB for a 4B student) only what is copied is in memory.
        found = [_load(path, mmap=True) for path in parts]
        return None if None in found else tree_map(_recut, *found)

    def _states(self) -> dict[int, list[Path]]:
        """Step -> the files of its state in order, of those that are complete."""
        found: dict[tuple[int, int], dict[int, Path]] = defaultdict(dict)
        for path in self.folder.glob("step-*.pt"):
            if match := _NAME.fullmatch(path.name):
                step, rank, count = match.groups()
                found[int(step), int(count or 1)][int(rank or 0)] = path
        return {
            step: [path for _, path in sorted(parts.items())]
            for (step, count), parts in found.items()
            if len(parts) == count
        }

    def _forget(self, step: int) -> None:
        for path in self._states()[step]:
            path.unlink()


def _load(path: Path, mmap: bool = False) -> dict[str, Any] | None:
    # A state is a zip file; one that was torn by a dying disk no longer has its directory, or fails its checksums.
    with suppress(RuntimeError):
        if zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    return None


def _recut(*values: Any) -> Any:
    """This process's part of a tensor that others had cut along its first dimension; else what all of them have."""
    if not isinstance(values[0], Tensor) or values[0].dim() == 0:
        return values[0]
    tensor = torch.cat(values)
    if processes.count() == 1:
        return tensor
    parts = tensor.chunk(processes.count())
    return parts[processes.rank()].clone() if processes.rank() < len(parts) else tensor[:0].clone()
