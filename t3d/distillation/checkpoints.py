"""Resumable training states in `work/<experiment>/<run>/`: written whole or not at all, the last two kept.

A state belongs to one recipe and one set of inputs; a changed recipe starts clean.
"""

import os
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from t3d.errors import TrainingError

_KEPT = 2


class Checkpoints:
    """The training states of one run."""

    def __init__(self, folder: Path, identity: str, reader: bool = False) -> None:
        """Use `folder` for the run called `identity` (recipe and input digests); another run's states are removed.

        A `reader` changes nothing in the folder: of several processes only the main one does.
        """
        self.folder, self.identity, self.reader = folder, identity, reader
        if reader:
            return
        marker = folder / "identity"
        if folder.exists() and (not marker.is_file() or marker.read_text() != identity):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(identity)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step`.

        Raises:
            TrainingError: it could not be written (full disk); earlier states are intact.
        """
        path = self._path(step)
        partial = path.with_suffix(".partial")
        try:
            torch.save(state, partial)
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise TrainingError(
                f"cannot write the training state {path}: {error}. The last good state is kept; make room and retry."
            ) from error
        for old in self._states()[:-_KEPT]:
            old.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None."""
        if self.reader:
            # Mapped, so that the processes of a node share its 64 GB (of a 4B student) in memory.
            newest = self._states()[-1:]
            return torch.load(newest[0], map_location="cpu", weights_only=True, mmap=True) if newest else None
        for path in reversed(self._states()):
            # A state is a zip file; one that was torn by a dying disk no longer has its directory, or fails its
            # checksums.
            with suppress(RuntimeError):
                if zipfile.is_zipfile(path):
                    return torch.load(path, map_location="cpu", weights_only=True)
            path.unlink()
        return None

    def remove(self) -> None:
        """Forget the run: its student is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}.pt"

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.pt"))
