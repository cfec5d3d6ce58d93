"""What a message says to do gets the file back, and is never to make what can be had."""

import json
import shutil
from pathlib import Path

import pytest

from t3d import params
from t3d.errors import CorruptArtefactError, MissingInputError
from t3d.provenance import archive, remote, store, verify
from t3d.reporting.figures import training
from tests.conftest import ROOT
from tests.reporting.helpers import unpack
from tests.workflow.small import git

SCORE, STUDENT = "scores/pocket-sdar/gsm/b8s2", "students/t3d-seed0"
SHIPPED = Path("data/shipped/pocket-sdar.manifest.json")


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A clone that has pulled the scores of `demo`; there is no remote."""
    unpack(tmp_path, "demo")
    (tmp_path / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    monkeypatch.chdir(tmp_path)
    return params.find("demo")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A clone with the shipped model, which git keeps."""
    shutil.copytree(ROOT / "data" / "shipped", tmp_path / "data" / "shipped")
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet", ".")
    git(tmp_path, "add", "data")
    return tmp_path


@pytest.mark.parametrize("name", [".manifest.json", ".receipt.json", "/model.safetensors", "/config.json"])
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_shipped_files_come_back_from_git(shipped, name, how):
    path = Path(str(SHIPPED).removesuffix(".manifest.json") + name)
    content = path.read_bytes()
    path.unlink()
    if how == "damaged":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:] if "model" in name else b"{")

    def read():
        manifest = store.read(SHIPPED)
        store.read_receipt(manifest)
        manifest.folder()

    with pytest.raises((CorruptArtefactError, MissingInputError)) as caught:
        read()
    assert str(caught.value).startswith(str(path))
    assert "estore it (git checkout data/shipped)." in str(caught.value)
    assert "elete" not in str(caught.value)
    git(shipped, "checkout", "data/shipped")
    read()


def test_without_git_shipped_files_are_not_deleted_either(shipped):
    shutil.rmtree(".git")
    path = Path("data/shipped/pocket-sdar/config.json")
    path.write_text("{}")
    with pytest.raises(
        CorruptArtefactError, match=r"Restore it \(copy data/shipped from the project's repository\)\.$"
    ):
        store.read(SHIPPED).folder()


@pytest.mark.parametrize("content", ["{", '{"seconds": -1}', '{"artefact": "x"}', None])
@pytest.mark.parametrize("artefact", [SCORE, STUDENT])
def test_a_published_receipt_is_fetched_again(demo, artefact, content):
    path = Path(f"data/demo/{artefact}.receipt.json")
    path.unlink()
    if content is not None:
        path.write_text(content)
    manifest = store.read(store.manifest_path(demo, artefact))
    with pytest.raises((CorruptArtefactError, MissingInputError)) as caught:
        verify.check(demo, manifest, receipt=True)
    how = "Fetch" if content is None else "Delete it, then fetch"
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(f" {how} it again (t3d pull scores --experiment demo).")
    path.unlink(missing_ok=True)
    archive.restore(demo)
    verify.check(demo, manifest, receipt=True)


def test_an_edited_parameter_in_a_published_receipt_means_no_training(demo):
    path = Path(f"data/demo/{STUDENT}.receipt.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"params": {}}))
    with pytest.raises(Exception, match=r"asks for .*\. Delete it, then fetch it again \(t3d pull scores --exp"):
        verify.check(demo, store.read(store.manifest_path(demo, STUDENT)), receipt=True)


def test_a_receipt_that_nobody_published_is_restored_from_a_copy_first(demo):
    # `results` is a link to that of the repository.
    Path("results").unlink()
    path = Path(f"data/demo/{SCORE}.receipt.json")
    path.write_text("{")
    with pytest.raises(CorruptArtefactError, match=r"Restore it from a copy of yours; if you have none, delete .*json"):
        store.read_receipt(store.read(store.manifest_path(demo, SCORE)))


def test_a_published_manifest_is_fetched_again(demo):
    path = store.manifest_path(demo, SCORE)
    path.write_text("{")
    pull = r"\(t3d pull scores --experiment demo\)"
    with pytest.raises(
        CorruptArtefactError, match=rf"Delete it, then fetch what was published {pull} or run its stage"
    ):
        store.read(path)
    path.unlink()
    with pytest.raises(
        MissingInputError, match=rf"is missing: fetch what was published {pull}, or make it \(snakemake"
    ):
        store.read(path)
    archive.restore(demo)
    store.read(path)


def test_a_published_training_log_is_fetched_again(demo):
    manifest = store.read(store.manifest_path(demo, STUDENT))
    path = manifest.base / "training.jsonl"
    pull = r"\(t3d pull scores --experiment demo\)"
    path.write_text("")
    with pytest.raises(CorruptArtefactError, match=rf"Delete {path}, then fetch it again {pull}\.$"):
        training.read_log(manifest)
    path.unlink()
    with pytest.raises(MissingInputError, match=rf"Fetch it {pull}"):
        training.read_log(manifest)


def test_weights_that_were_not_published_are_not_to_be_pulled(demo, monkeypatch):
    """Nor is the manifest to be deleted unless the weights are needed: `pull` brought it."""
    manifest = store.read(store.manifest_path(demo, STUDENT))
    with pytest.raises(MissingInputError) as caught:
        manifest.check(contents=False)
    assert "pull" not in str(caught.value)
    assert str(caught.value).endswith(
        f" The archive of experiment demo does not hold it, and there is no remote here to fetch it from: if you need "
        f"it, delete {manifest.path} and make it (snakemake {manifest.path} --cores all --config experiment=demo)."
    )
    monkeypatch.setattr(remote, "command", lambda experiment: f"t3d pull all --experiment {experiment}")
    with pytest.raises(MissingInputError, match=r"Fetch it \(t3d pull all --experiment demo\), or delete"):
        manifest.check(contents=False)
    # A student that was trained here is not what a remote holds.
    content = json.loads(manifest.path.read_text())
    manifest.path.write_text(json.dumps(content | {"facts": content["facts"] | {"mine": 1}}))
    with pytest.raises(MissingInputError, match=r"The archive of experiment demo does not hold it"):
        store.read(manifest.path).check(contents=False)
