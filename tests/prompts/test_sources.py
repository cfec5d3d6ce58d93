"""Fetching from a hub: a server on loopback that answers as the hub does, asked by the real client and command."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from t3d import params
from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError
from t3d.prompts import sources

COMMIT = "c" * 40
LARGE, SMALL = b"weights " * 4000, b'{"model_type": "sdar"}'
FILES = {"model.safetensors": LARGE, "config.json": SMALL, "modeling.py": b"import os", "README.md": b"# A model"}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """The two requests of `huggingface_hub` that matter: what a revision holds, and one of its files."""

    protocol_version = "HTTP/1.1"

    def answer(self, code, content=b"", **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if "owner/model" not in path:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if path.startswith("/api/models/owner/model"):
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            if revision not in ("main", COMMIT):
                return self.answer(404, X_Error_Code="RevisionNotFound")
            siblings = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
            siblings[0]["lfs"] = {"sha256": sha256(LARGE), "size": len(LARGE), "pointerSize": 130}
            body = json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode()
            return self.answer(200, body, Content_Type="application/json")
        revision, _, name = path.partition("/resolve/")[2].partition("/")
        if revision != COMMIT:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if name not in FILES:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        content = FILES[name]
        return self.answer(200, content, ETag=f'"{sha256(content)}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def write(folder, **source):
    (folder / "params").mkdir(exist_ok=True)
    content = {
        "sources": {"s": {"repository": "owner/model", "kind": "model"} | source},
        "teachers": {"m": {"source": "hub", "hub": "s"}},
        "prompt_sets": {"p": {"teacher": "m", "split": "test", "count": 3}},
    }
    path = folder / "params" / "x.yaml"
    path.write_text(yaml.safe_dump(content))
    return params.load(path)


FETCH = ("fetch", "--name", "s", "--work", "work", "--out", "data/x/sources/s.manifest.json")


def start(folder, endpoint, *verb):
    command = [sys.executable, "-m", "t3d.cli", *verb, "--experiment", "x"]
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
    environment |= {"HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True, cwd=folder, env=environment)


def finish(process):
    said, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


def fetch(folder, endpoint):
    return finish(start(folder, endpoint, *FETCH))


PINNED = {"revision": COMMIT, "files": {name: sha256(FILES[name]) for name in ("config.json", "model.safetensors")}}


@pytest.fixture(scope="module", autouse=True)
def without_network(tmp_path_factory):
    """Fetches of a source that is pinned and of one that is not. The client tries for 25 seconds, beside the tests."""
    started = {}
    for pinned in (True, False):
        folder = tmp_path_factory.mktemp("offline")
        write(folder, **(PINNED if pinned else {}))
        started[pinned] = start(folder, "http://127.0.0.1:9", *FETCH)
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def test_all_pins_are_printed_at_once(hub, tmp_path):
    write(tmp_path)
    done = finish(start(tmp_path, hub, "pin"))
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["sources"]["s"] == {"repository": "owner/model", "kind": "model", **PINNED}


def test_what_can_be_pinned_is_printed_although_a_source_cannot(hub, tmp_path):
    write(tmp_path)
    path = tmp_path / "params" / "x.yaml"
    content = yaml.safe_load(path.read_text())
    content["sources"] = {"lost": {"repository": "owner/nothing", "kind": "model"}, **content["sources"]}
    path.write_text(yaml.safe_dump(content))
    done = finish(start(tmp_path, hub, "pin"))
    assert done.returncode == 1
    assert list(yaml.safe_load(done.stdout)["sources"]) == ["s"]
    assert "params/x.yaml, sources.lost: the hub has no model owner/nothing" in done.stderr


def test_a_local_folder_says_what_it_holds(tmp_path):
    local = tmp_path / "copied"
    e = write(tmp_path, local=str(local))
    with pytest.raises(
        MissingInputError, match=r"params/x.yaml, sources.s.local: .*; there is no such folder\. Put the files"
    ):
        sources.make(e, "s", tmp_path / "work", tmp_path / "s.manifest.json")
    local.mkdir()
    (local / "notes.md").write_text("x")
    with pytest.raises(
        MissingInputError, match=r"holds no .safetensors or .*; it holds notes.md\. .* correct sources.s.local\."
    ):
        sources.make(e, "s", tmp_path / "work", tmp_path / "s.manifest.json")


def test_an_unpinned_source_is_refused_with_the_pin_to_paste(hub, tmp_path):
    write(tmp_path)
    done = fetch(tmp_path, hub)
    assert done.returncode == 1
    assert "params/x.yaml, sources.s is not pinned. Paste this there" in done.stderr
    pin = yaml.safe_load(done.stderr[done.stderr.index("sources:\n") :])["sources"]["s"]
    # Weights and settings; never code.
    assert pin == {"repository": "owner/model", "kind": "model", **PINNED}
    write(tmp_path, **{key: pin[key] for key in PINNED})
    done = fetch(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "data" / "x" / "sources"
    assert (folder / "s" / "model.safetensors").read_bytes() == LARGE
    assert sorted(p.name for p in (folder / "s").iterdir()) == ["config.json", "model.safetensors"]
    receipt = json.loads((folder / "s.receipt.json").read_text())
    assert receipt["source"] == {"repository": "owner/model", "revision": COMMIT}
    assert not (tmp_path / "work" / "s").exists()


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        (PINNED | {"revision": "d" * 40}, ["model owner/model has no revision dddd", "Remove `revision`"]),
        (PINNED | {"repository": "owner/nothing"}, ["the hub has no model owner/nothing"]),
        ({"repository": "owner/nothing"}, ["the hub has no model owner/nothing"]),
        (
            PINNED | {"files": {"config.json": "0" * 64}},
            ["config.json: sha256 is", "asks for 0000", "It was removed; fetch it again, or correct the pin."],
        ),
        (PINNED | {"files": {"nowhere.json": "0" * 64}}, ["model owner/model has no such file at cccc"]),
    ],
    ids=["revision", "repository", "repository, unpinned", "checksum", "file"],
)
def test_what_the_hub_does_not_have_is_one_sentence(hub, tmp_path, source, messages):
    write(tmp_path, **source)
    done = fetch(tmp_path, hub)
    assert done.returncode == 1
    for message in messages:
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "x" / "sources" / "s.manifest.json").exists()


def test_a_local_folder_is_checked_and_used(tmp_path):
    local = tmp_path / "copied"
    local.mkdir()
    e = write(tmp_path, local=str(local), **PINNED)
    out = tmp_path / "s.manifest.json"
    with pytest.raises(
        MissingInputError,
        match=r"config.json is missing; it holds no file. On a machine with network: hf download owner/",
    ):
        sources.make(e, "s", tmp_path / "work", out)
    (local / "config.json").write_bytes(SMALL)
    (local / "model.safetensors").write_bytes(LARGE[:-1])
    with pytest.raises(CorruptArtefactError, match=r"model.safetensors: sha256 is .* Copy it again"):
        sources.make(e, "s", tmp_path / "work", out)
    assert not out.exists()
    (local / "model.safetensors").write_bytes(LARGE)
    sources.make(e, "s", tmp_path / "work", out)
    # Where it came from leaves no trace: the same pin gives the same artefact.
    assert str(tmp_path) not in out.read_text() + (tmp_path / "s.receipt.json").read_text()


@pytest.mark.parametrize("local", ["copied", None])
def test_no_download_is_named_of_files_without_a_commit(tmp_path, monkeypatch, local):
    """`repository` may be only a name for the record, and no hub has the revision."""
    monkeypatch.chdir(tmp_path)
    e = write(tmp_path, local=local, revision="0" * 40, files={"rows.jsonl": "a" * 64})
    with pytest.raises(MissingInputError) as caught:
        sources.make(e, "s", tmp_path / "work", tmp_path / "s.manifest.json")
    said = str(caught.value)
    assert "hf download" not in said
    assert "0" * 40 not in said
    assert f"rows.jsonl (sha256 {'a' * 64}). Or correct sources.s.local" in said
    assert "comments in params/x.yaml may say" in said
    assert said.startswith(
        "params/x.yaml, sources.s.local: copied/rows.jsonl is missing; there is no such folder. Put into copied: "
        if local
        else "params/x.yaml, sources.s.local is not set. Put into a folder: "
    )


def test_a_local_folder_without_a_pin_prints_its_own(tmp_path):
    local = tmp_path / "copied"
    local.mkdir()
    (local / "config.json").write_bytes(SMALL)
    e = write(tmp_path, local=str(local))
    with pytest.raises(ParameterError, match=f"config.json: {sha256(SMALL)}"):
        sources.make(e, "s", tmp_path / "work", tmp_path / "s.manifest.json")


@pytest.mark.parametrize("pinned", [True, False])
def test_without_network_the_message_says_what_to_copy_where(without_network, pinned):
    done = finish(without_network[pinned])
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    if pinned:
        assert (
            "hf download owner/model --revision " + COMMIT + " --local-dir hub/owner/model config.json" in done.stderr
        )
        assert "set `local: hub/owner/model` there" in done.stderr
    else:
        assert "Run `t3d pin` on a machine with network: it prints what to paste" in done.stderr
