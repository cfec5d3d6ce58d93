"""A small demo that DVC made from nothing, once for all the tests that begin with it."""

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from t3d.terminal import parent
from tests.conftest import ROOT
from tests.started import FORKED, main_of
from tests.workflow.small import dvc, git, snakemake, t3d, twin, write


@pytest.fixture(scope="session", autouse=True)
def loaded():
    """What jobs need is loaded here, once: the parents that they are children of are forks of this process."""
    for name in dict.fromkeys(name for modules in parent.LOADED.values() for name in modules):
        import_module(name)
    for name in FORKED:
        main_of(name)


@pytest.fixture(scope="session")
def demo(once):
    """A repository in which DVC made a small demo from nothing, and which was published. Tests change copies of it."""
    return once("versions", publish_small_demo) / "origin"


@pytest.fixture
def project(demo, tmp_path):
    """The small demo, apart from the code, in a folder that a test may change."""
    for name in ("params", "data", "results", ".snakemake"):
        shutil.copytree(demo / name, tmp_path / name, symlinks=True)
    return tmp_path


def publish_small_demo(around: Path) -> None:
    """Make a repository of the code as it is here, the small demo in it, and publish that, on every core."""
    folder = around / "origin"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("results/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    write(folder, twin())
    git(folder, "init", "--quiet", ".")
    dvc(folder, "remote", "modify", "local", "url", str(around / "remote"))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "code")
    dvc(folder, "repro")
    assert "Data and pipelines are up to date" in dvc(folder, "status")
    assert "Nothing to be done" in snakemake(folder, "-n")
    said = t3d(folder, "publish")
    (added,) = re.findall(r"^  (git add .*)$", said, flags=re.MULTILINE)
    git(folder, *added.split()[1:])
    git(folder, "commit", "--quiet", "-m", "published")
    assert git(folder, "status", "--porcelain") == ""
