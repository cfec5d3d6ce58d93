"""The option `--out` of a benchmark."""

from argparse import ArgumentTypeError
from pathlib import Path


def json_file(text: str) -> Path:
    """A file to write; its folder is looked for before minutes are spent on what it will hold."""
    if not Path(text).parent.is_dir():
        raise ArgumentTypeError(f"there is no folder {Path(text).parent}")
    return Path(text)
