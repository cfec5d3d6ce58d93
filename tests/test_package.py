"""An installation that is not editable has every file the package reads."""

import shutil
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def test_a_wheel_holds_every_file_of_the_package(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "t3d", source / "t3d", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = {path.relative_to(source).as_posix() for path in (source / "t3d").rglob("*") if path.is_file()}
    assert files <= set(zipfile.ZipFile(wheel).namelist())
