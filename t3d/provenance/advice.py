"""How to get a file back: from git, from an archive, or from a DVC remote. Messages advise only what works."""

import subprocess
from pathlib import Path

from t3d.provenance import remote
from t3d.provenance.store import archived, making, owner, pulling, sha256

ARCHIVE = "published.tar.xz"
"""The archive in `results/<experiment>/`; see `archive.py`."""
SHIPPED = Path("data", "shipped")
"""Below it lie models that git keeps; no stage makes them."""


def published() -> list[str]:
    """The experiments of which an archive is here."""
    return sorted(path.parent.name for path in Path("results").glob(f"*/{ARCHIVE}"))


def in_git(path: Path) -> bool:
    """Whether git keeps a file below the working directory, here or deleted; not where there is no git."""
    command = ["git", "ls-files", "--error-unmatch", "--", str(path)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def of_missing(path: Path, manifest: Path, listed: str) -> str:
    """What to do about a file that a manifest lists, with this sha256, and that is not here."""
    if path.is_relative_to(SHIPPED):
        return f"Restore it ({_restoring(path)})."
    if command := _fetching(path, manifest, listed):
        return f"Fetch it ({command}), or delete {manifest} and run its stage again."
    name = owner(path)
    if name is None or not archived(name, [manifest]):
        return f"Delete {manifest} and run its stage again."
    return (
        f"The archive of experiment {name} does not hold it, and there is no remote here to fetch it from: if you need "
        f"it, delete {manifest} and make it ({making(manifest)})."
    )


def of_damaged(path: Path, manifest: Path, listed: str) -> str:
    """What to do about a file whose content is not what a manifest lists, with this sha256."""
    if path.is_relative_to(SHIPPED):
        return f"Restore it ({_restoring(path)})."
    if command := _fetching(path, manifest, listed):
        return f"Delete {path}, then fetch it again ({command})."
    return f"Delete {manifest} and run its stage again."


def of_receipt(path: Path, manifest: Path) -> str:
    """What to do about a receipt that cannot be used: nothing has to be made again where another copy of it is."""
    if path.is_relative_to(SHIPPED):
        return f"Restore it ({_restoring(path)})."
    name = owner(path)
    held = dict(archived(name, [path, manifest])) if name else {}
    if name and held.keys() == {path, manifest} and _holds(manifest, held[manifest]) and not _holds(path, held[path]):
        return f"{'Delete it, then fetch' if path.exists() else 'Fetch'} it again ({pulling(name)})."
    return f"Restore it from a copy of yours; if you have none, delete {manifest} and run its stage again."


def of_manifest(path: Path) -> str:
    """What to do about a manifest that cannot be used."""
    if path.is_relative_to(SHIPPED):
        return f"Restore it ({_restoring(path)})."
    name = owner(path)
    if name and (held := dict(archived(name, [path]))) and not _holds(path, held[path]):
        return f"Delete it, then fetch what was published ({pulling(name)}) or run its stage again."
    return "Delete it and run its stage again."


def of_absent_manifest(path: Path) -> str:
    """What to do about a manifest that is not here."""
    if path.is_relative_to(SHIPPED):
        return f"restore it ({_restoring(path)})"
    name = owner(path)
    if name and archived(name, [path]):
        return f"fetch what was published ({pulling(name)}), or make it ({making(path)})"
    return f"make it first ({making(path)})"


def _restoring(path: Path) -> str:
    return f"git checkout {SHIPPED}" if in_git(path) else f"copy {SHIPPED} from the project's repository"


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _fetching(path: Path, manifest: Path, listed: str) -> str | None:
    """The command that fetches a file with this sha256; None if nothing holds it."""
    name = owner(path)
    held = dict(archived(name, [path, manifest])) if name else {}
    if name is None or not held:
        return None
    if held.get(path) == listed:
        return pulling(name)
    # A remote holds the files of what was published, which another manifest does not list.
    return remote.command(name) if manifest in held and _holds(manifest, held[manifest]) else None
