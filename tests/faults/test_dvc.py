"""Attacks by a DVC remote, each on a real one: nothing lands outside the data folder, and nothing is believed."""

import hashlib
import json
import os

import pytest

from t3d.errors import T3DError
from t3d.provenance import remote
from tests.provenance.test_remote import DATA, STUDENTS, clone, files, listed, pushed, stored

__all__ = ["clone", "pushed"]


def replaced_by(make):
    """Replace the object of a student's weights."""

    def attack(clone):
        _, entries = listed(clone)
        path = stored(clone, next(entry["md5"] for entry in entries if entry["relpath"].startswith("students")))
        path.unlink()
        make(path)

    return attack


def relisted(*entries, lock=False):
    """Add entries to the list of files, under its old name or, with dvc.lock, under its own."""

    def attack(clone):
        digest, old = listed(clone)
        text = json.dumps([*old, *entries]).encode()
        new = hashlib.md5(text).hexdigest() + ".dir" if lock else digest
        path = clone.parent / "t3d-artefacts" / "files" / "md5" / new[:2] / new[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text)
        if lock:
            (clone / "dvc.lock").write_text((clone / "dvc.lock").read_text().replace(digest, new))

    return attack


def in_lock(old, new):
    def attack(clone):
        path = clone / "dvc.lock"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return attack


EVIL = hashlib.md5(b"evil").hexdigest()
ATTACKS = {
    "an object that is a link": replaced_by(lambda path: path.symlink_to("/etc/passwd")),
    "an object that is a folder": replaced_by(lambda path: path.mkdir()),
    "an object that is empty": replaced_by(lambda path: path.touch()),
    "a module in another folder": relisted({"md5": EVIL, "relpath": "../../sitecustomize.py"}),
    "a hook of git": relisted({"md5": EVIL, "relpath": "../../.git/hooks/post-checkout"}, lock=True),
    "settings of DVC": relisted({"md5": EVIL, "relpath": "../../.dvc/config.local"}, lock=True),
    "a file and a folder of one name": relisted({"md5": EVIL, "relpath": "students/t3d-seed0/weights/x"}, lock=True),
    "a name with a zero byte": relisted({"md5": EVIL, "relpath": "students/x\0y"}, lock=True),
    "a name that is a list": relisted({"md5": EVIL, "relpath": ["../../x"]}, lock=True),
    "an md5 that leads outside": relisted({"md5": "../../../x", "relpath": "students/x"}, lock=True),
    "a list in lists": lambda clone: stored(clone, listed(clone)[0]).write_text("[" * 100_000),
    "a lock that leads outside": in_lock("path: data/demo\n", "path: ../evil\n"),
    "a lock with another digest": in_lock(".dir", ".dri"),
    "a lock that is cut": in_lock("outs:", "outs: ["),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_remote_puts_nothing_elsewhere(name, clone):
    ATTACKS[name](clone)
    evil = clone.parent / "t3d-artefacts" / "files" / "md5" / EVIL[:2] / EVIL[2:]
    evil.parent.mkdir(exist_ok=True)
    evil.write_bytes(b"evil")
    before, beside = files(clone), set(os.listdir(clone.parent))
    with pytest.raises(T3DError) as caught:
        remote.fetch("demo", STUDENTS, None)
    assert len(str(caught.value)) < 4000
    assert "Traceback" not in str(caught.value)
    assert not {path for path in files(clone) - before if ".dvc" not in path.parts and DATA.parts[0] not in path.parts}
    assert set(os.listdir(clone.parent)) == beside
    assert not (clone / DATA).exists()
