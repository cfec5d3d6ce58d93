"""A real DVC remote on disk: what was pushed comes back, and what somebody put into it since does not."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError, PublishError
from t3d.provenance import remote
from tests.conftest import ROOT
from tests.started import Fork
from tests.workflow.small import dvc, git

DATA, STUDENTS = Path("data", "demo"), [Path("data", "demo", "students")]
FILES = {"students/t3d-seed0/weights": b"student" * 100, "teachers/pocket/weights": b"teacher" * 100}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """A project whose models were pushed to a folder beside it."""
    folder = tmp_path_factory.mktemp("pushed") / "project"
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", "workflow/recipes.yaml", "params/reported.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    written = {f"data/demo/{name}": content for name, content in FILES.items()}
    written |= {"data/demo/students/t3d-seed0.receipt.json": b"1", "params/demo.yaml": b"seed: 0\n"}
    written |= {"data/shipped/weights": b"x", "results/demo/table1.csv": b"x", "results/demo/published.sha256": b"x"}
    for name, content in written.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    git(folder, "init", "--quiet", ".")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(subprocess, "Popen", Fork)
        remote.push("demo", None)
    return folder.parent


@pytest.fixture
def clone(pushed, tmp_path, monkeypatch):
    """What git keeps of that project, and a copy of the remote that may be changed."""
    ignored = shutil.ignore_patterns("cache", "tmp")
    folder = shutil.copytree(pushed / "project", tmp_path / "clone", ignore=ignored)
    shutil.rmtree(folder / DATA)
    shutil.copytree(pushed / "t3d-artefacts", tmp_path / "t3d-artefacts")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(subprocess, "Popen", Fork)
    return folder


def stored(clone, digest):
    """The file in which the remote keeps some content."""
    path = clone.parent / "t3d-artefacts" / "files" / "md5" / digest[:2] / digest[2:]
    path.chmod(0o644)
    return path


def made(folder):
    return {path.relative_to(folder / DATA).as_posix(): path.read_bytes() for path in files(folder / DATA)}


def files(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def listed(clone):
    """md5 of the published list of files, and the list."""
    (digest,) = set(re.findall(r"path: data/demo\n.*\n +md5: (\S+)", (clone / "dvc.lock").read_text()))
    return digest, json.loads(stored(clone, digest).read_text())


def test_folders_come_back_and_receipts_are_not_among_them(clone):
    remote.fetch("demo", STUDENTS, None)
    assert made(clone) == {name: content for name, content in FILES.items() if name.startswith("students")}
    receipt = clone / DATA / "students" / "t3d-seed0.receipt.json"
    receipt.write_text("2")
    remote.fetch("demo", [DATA], None)
    assert made(clone) == FILES | {"students/t3d-seed0.receipt.json": b"2"}
    # Receipts differ between equal runs, and DVC sees no difference.
    assert "up to date" in dvc(clone, "status", "models@demo")


NAMES = ["../../rich.py", "/tmp/evil.py", "students/../../evil.py", "./evil.py", "students//evil.py", "..", "."]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        *((json.dumps([{"md5": "0" * 32, "relpath": name}]), f"holds {name!r} with md5") for name in NAMES),
        (json.dumps([{"md5": "../../../../evil", "relpath": "x"}]), "holds 'x' with md5 '../"),
        *((content, "is none of DVC's") for content in ("", "{", "[1]", '{"a": 1}', "[{}]")),
    ],
)
def test_a_list_of_other_names_or_of_another_form_is_refused(content, why):
    with pytest.raises(ValueError, match=f"^{re.escape(why)}"):
        remote.read_listing(content.encode(), hashlib.md5(content.encode()).hexdigest() + ".dir")


@pytest.mark.parametrize("lock", ["as published", "edited"])
def test_a_list_of_the_remote_puts_no_file_elsewhere(clone, lock):
    """DVC itself would write `rich.py` into the project, and run it in the same command."""
    before = files(clone)
    digest, entries = listed(clone)
    content = b"raise SystemExit('a program of the remote was run')"
    evil = hashlib.md5(content).hexdigest()
    text = json.dumps([*entries, {"md5": evil, "relpath": "../../rich.py"}]).encode()
    found = digest if lock == "as published" else hashlib.md5(text).hexdigest() + ".dir"
    for key, data in ((found, text), (evil, content)):
        path = clone.parent / "t3d-artefacts" / "files" / "md5" / key[:2] / key[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (clone / "dvc.lock").write_text((clone / "dvc.lock").read_text().replace(digest, found))
    # DVC would see that the list is another one, but not on every remote.
    dvc(clone, "remote", "modify", "--local", "local", "verify", "false")
    why = "is not the published one" if lock == "as published" else "holds '../../rich.py'"
    with pytest.raises(CorruptArtefactError, match=f"list of the files in data/demo {re.escape(why)}.* another remote"):
        remote.fetch("demo", [DATA], None)
    assert not {path for path in files(clone) - before if ".dvc" not in path.parts}
    assert not list((clone / ".dvc" / "cache").rglob("*.dir"))


def test_changed_content_is_refused(clone):
    _, entries = listed(clone)
    path = stored(clone, entries[0]["md5"])
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PublishError, match=r"the remote does not hold data/demo/.*/weights, or holds it damaged"):
        remote.fetch("demo", [DATA], None)
    assert not (clone / DATA).exists()


def test_a_file_of_the_project_is_not_taken_for_a_module(clone, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", Fork.__base__)
    (clone / "rich.py").write_text("raise SystemExit('a file of the project was run')")
    remote.fetch("demo", STUDENTS, None)


def test_local_work_is_not_overwritten(clone):
    path = clone / DATA / "students" / "t3d-seed0" / "weights"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(
        PublishError,
        match=r"left as they are: 1 of the files here\. .*\n  data/demo/students/t3d-seed0/weights$",
    ):
        remote.fetch("demo", STUDENTS, None)
    assert path.read_text() == "mine"


def test_what_cannot_be_fetched_is_said(clone):
    assert remote.command("demo") == "t3d pull all --experiment demo"
    assert remote.command("pocket") is None
    with pytest.raises(MissingInputError, match=r"dvc\.lock does not hold models@pocket"):
        remote.fetch("pocket", STUDENTS, None)
    with pytest.raises(ParameterError, match=r"dvc\.yaml: experiment pocket is not in `foreach` of models, tables"):
        remote.check_versioned("pocket")
    shutil.rmtree(clone.parent / "t3d-artefacts")
    assert remote.command("demo") is None
    with pytest.raises(PublishError, match="the remote does not hold data/demo as"):
        remote.fetch("demo", STUDENTS, None)
    (clone / ".dvc" / "config.local").write_text("['remote \"local\"']\n    url = s3://bucket/folder\n")
    assert remote.command("demo") == "t3d pull all --experiment demo"
    (clone / "dvc.lock").unlink()
    assert remote.command("demo") is None
