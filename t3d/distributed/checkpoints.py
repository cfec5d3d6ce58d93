"""Resumable training states in a folder of their own: written whole or not at all, the last two kept.

Those of a student are in `work/<experiment>/<run>/`, those of a teacher that is pretrained beside its artefact.

A state belongs to one recipe and one set of inputs; a changed recipe starts clean. One process writes a state as
`step-0000050.pt`; of several each writes its part, `step-0000050.0-of-2.pt` and `step-0000050.1-of-2.pt`, and the state
exists when all of them do. Any number of processes can go on from it.

Beside each file lies its sha256 (`sha256sum -c` reads it): `torch.load` compares no checksum, and would hand out the
numbers of a file that a failing disk has changed. A thread computes it while the file is written, at 1.8 GB/s: of 4B
parameters (48 GB, and 16 GB more with a reference) each of eight processes hashes its 8 GB in 5 s, about as long as a
fast disk takes to write them; and as long again when it resumes.
"""

import hashlib
import os
import pickle
import re
import shutil
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from t3d.distributed import collectives
from t3d.errors import TrainingError

_KEPT = 2
_NAME = re.compile(r"step-(\d+)(?:\.(\d+)-of-(\d+))?\.pt")
_DIGEST = ".sha256"


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
        if not collectives.is_main():
            return
        marker = folder / "identity"
        try:
            if folder.exists() and (not marker.is_file() or marker.read_text() != identity):
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            marker.write_text(identity)
            complete = {path for parts in self._states().values() for path in parts}
            for path in folder.glob("step-*"):
                if path not in complete and path.with_suffix("") not in complete:
                    path.unlink()
        except OSError as error:
            raise TrainingError(f"cannot keep training states in {folder}: {error}.") from error

    def save(self, step: int, part: dict[str, Any]) -> None:
        """Write the state after `step`: of several processes, each its part.

        Raises:
            TrainingError: it could not be written (full disk); earlier states are intact.
        """
        with collectives.raise_on_all_ranks():
            self._write(step, part)
        if collectives.is_main():
            for old in sorted(self._states())[:-_KEPT]:
                self._forget(old)

    def latest(self) -> dict[str, Any] | None:
        """The newest state that is whole, or this process's part of it; None if there is none.

        Damaged ones are named and removed.

        Raises:
            TrainingError: processes see different states.
        """
        while True:
            step = max(self._states(), default=0)
            with collectives.raise_on_all_ranks():
                if (seen := int(collectives.all_reduce_max(step))) != step:
                    raise TrainingError(
                        f"{self.folder}: one process reads the state of step {seen}, another that of step {step}. "
                        "Every node must see this folder (--work); run again."
                    )
            if step == 0:
                return None
            parts = self._states()[step]
            # Each file is read by one process, no matter which one wrote it.
            faults = [
                fault for path in parts[collectives.rank() :: collectives.world_size()] if (fault := _fault_of(path))
            ]
            damaged = collectives.any_of(bool(faults))
            part = None if damaged else self._read(parts)
            if not collectives.any_of(part is None):
                return part
            if not damaged and collectives.is_main():
                faults = [f"{parts[0]} is not what this version of PyTorch reads"]
            for fault in faults:
                print(f"{fault}: the training goes on from an earlier state, or anew.", flush=True)
            with collectives.raise_on_all_ranks():
                if collectives.is_main():
                    self._forget(step)

    def remove(self) -> None:
        """Forget the run: what it trains is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, step: int, part: dict[str, Any]) -> None:
        rank, count = collectives.rank(), collectives.world_size()
        path = self.folder / f"step-{step:07d}{f'.{rank}-of-{count}' if count > 1 else ''}.pt"
        partial = path.with_suffix(".partial")
        digest = _digest_of(path)
        try:
            # The digest first: a file beside a wrong digest is found out, and a file without a digest is not a state.
            with partial.open("wb") as file, _Hashing(file) as hashing:
                torch.save(part, hashing)  # type: ignore[arg-type]  # it calls `write` and `flush` alone
            digest.write_text(f"{hashing.hexdigest()}  {path.name}\n")
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            digest.unlink(missing_ok=True)
            raise TrainingError(
                f"cannot write the training state {path}: {error}. The last good state is kept; make room and retry."
            ) from error

    def _read(self, parts: list[Path]) -> dict[str, Any] | None:
        """This process's part of a state; None if a file is broken."""
        if len(parts) == collectives.world_size():
            return _load(parts[collectives.rank()])
        # Mapped, so that of a state in other parts (64 GB for a 4B student) only what is copied is in memory.
        found = [_load(path, mmap=True) for path in parts]
        return None if None in found else tree_map(_reshard, *found)

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
            _digest_of(path).unlink(missing_ok=True)


class _Hashing:
    """A file that is written, and hashed at the same time by another thread: `torch.save` hands it whole tensors."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.thread = ThreadPoolExecutor(1)

    def __enter__(self) -> "_Hashing":
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown()

    def write(self, content: Any) -> int:
        hashed = self.thread.submit(self.sha256.update, content)
        try:
            return self.file.write(content)
        finally:
            # What `content` shows belongs to `torch.save` again after this call.
            hashed.result()

    def flush(self) -> None:
        self.file.flush()

    def hexdigest(self) -> str:
        return self.sha256.hexdigest()


def _digest_of(path: Path) -> Path:
    """Where the sha256 of a state's file is kept."""
    return path.with_name(path.name + _DIGEST)


def _fault_of(path: Path) -> str | None:
    """What is wrong with a file of a state, in words; None if it is as it was written."""
    try:
        recorded = _digest_of(path).read_text().split()
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path} has no sha256 beside it"
    except (OSError, UnicodeDecodeError) as error:
        return f"{path} cannot be read ({error})"
    return None if recorded == [found, path.name] else f"{path} is damaged: its sha256 is not the one beside it"


def _load(path: Path, mmap: bool = False) -> dict[str, Any] | None:
    # Of another version of PyTorch it may not be readable, though it is what was written.
    with suppress(RuntimeError, pickle.UnpicklingError, EOFError):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    return None


def _reshard(*values: Any) -> Any:
    """This process's part of a tensor that others had cut along its first dimension; else what all of them have."""
    if not isinstance(values[0], Tensor) or values[0].dim() == 0:
        return values[0]
    tensor = torch.cat(values)
    if collectives.world_size() == 1:
        return tensor
    parts = tensor.chunk(collectives.world_size())
    return parts[collectives.rank()].clone() if collectives.rank() < len(parts) else tensor[:0].clone()
