"""How to get a file back: from git, from an archive, or from a DVC remote. Messages advise only what works."""

import subprocess
from pathlib import Path

ARCHIVE = "published.tar.xz"
"""The archive in `results/<experiment>/`."""


def in_git(path: Path) -> bool:
    """Whether git keeps a file below the working directory, here or deleted; not where there is no git."""
    command = ["git", "ls-files", "--error-unmatch", "--", str(path)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def published() -> list[str]:
    """The experiments of which an archive is here."""
    return sorted(path.parent.name for path in Path("results").glob(f"*/{ARCHIVE}"))
