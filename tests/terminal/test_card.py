"""The model card and the upload, on a student whose manifests and receipts are real."""

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from t3d import cli, params
from t3d.errors import MissingInputError, ParameterError, SourceError
from t3d.provenance import lineage, store, writer
from t3d.terminal import card
from tests.conftest import ROOT


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The student `t3d` of params/qwen.yaml with two scores; of the rest, manifests."""
    (tmp_path / "params").mkdir()
    shutil.copy(ROOT / "params" / "qwen.yaml", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    found = params.find("qwen")
    scores = {f"scores/t3d-seed0/gsm/{budget}": correct for budget, correct in (("b4s2", 260), ("b4s1", 130))}
    for artefact in lineage.origins_of(found, list(scores)):
        inputs = [store.read(store.manifest_path(found, source)) for source in lineage.inputs_of(found, artefact)]
        with writer.writing(found, artefact, store.manifest_path(found, artefact), inputs=inputs) as job:
            if artefact == "students/t3d-seed0":
                (job.folder() / "config.json").write_text('{"model_type": "sdar"}')
                (job.folder() / "model.safetensors").write_bytes(b"weights")
                job.receipt["seconds_per_step"] = 0.25
            elif artefact in scores:
                summary = {"n": 1319, "correct": scores[artefact], "budget": artefact.rpartition("/")[2]}
                summary |= {"model": "t3d-seed0", "benchmark": "gsm"}
                summary |= dict.fromkeys(("response_tokens", "denoising_steps", "commit_passes"), 1)
                job.file(".json").write_text(json.dumps(summary))
            else:
                job.file(".txt").write_text("x")
    return found


def test_the_card_says_what_the_model_is_and_how_good(experiment, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["t3d", "card", "--experiment", "qwen", "--model", "t3d", "--license", "apache-2.0"]
    )
    with pytest.raises(SystemExit):
        cli.main()
    written = ModelCard(capsys.readouterr().out)
    assert written.data.license == "apache-2.0"
    assert written.data.base_model == ["Qwen/Qwen2.5-Coder-0.5B-Instruct"]
    assert "openai/grade-school-math" in written.data.datasets
    # Wilson's interval of 260 of 1319.
    assert "| GSM8K | `b4s2` | 19.7 [17.7, 21.9] | 1319 |" in written.text
    assert "0.250 s per optimizer step" in written.text
    (block,) = [part for part in written.text.split("```yaml\n")[1:]]
    assert yaml.safe_load(block.split("```")[0])["student"]["objective"]["name"] == "t3d"
    digest = store.read(store.manifest_path(experiment, "students/t3d-seed0")).files["t3d-seed0/config.json"]["sha256"]
    assert f"| `config.json` | `{digest}` |" in written.text


def test_a_card_without_a_measured_speed_names_none(experiment):
    """As that of a student of a single optimizer step."""
    path = store.manifest_path(experiment, "students/t3d-seed0").with_name("t3d-seed0.receipt.json")
    receipt = json.loads(path.read_text())
    del receipt["seconds_per_step"]
    path.write_text(json.dumps(receipt))
    assert f" s, finished {receipt['finished']}, commit" in card.text(experiment, "t3d", None, None)


def test_results_are_in_the_hubs_form(experiment):
    found = card.results(experiment, "t3d")
    assert sorted(found) == [".eval_results/gsm-b4s1.yaml", ".eval_results/gsm-b4s2.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(found[".eval_results/gsm-b4s2.yaml"]))
    assert (entry.dataset_id, entry.value) == ("openai/grade-school-math", 19.71)
    assert entry.notes == "block 4, 2 tokens per step; n 1319, 95 % interval 17.7 to 21.9"


def test_what_is_not_made_and_what_does_not_fit_is_refused(experiment):
    with pytest.raises(ParameterError, match="no model 'tea': coder-ar, coder"):
        card.text(experiment, "tea", None, None)
    with pytest.raises(MissingInputError, match="naive-td-seed0"):
        card.text(experiment, "naive-td", None, None)
    store.manifest_path(experiment, "scores/t3d-seed0/gsm/b4s1").with_name("b4s1.json").write_text('{"correct": 1319}')
    with pytest.raises(store.CorruptArtefactError, match=r"b4s1\.json"):
        card.text(experiment, "t3d", None, None)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files meets; `got` is what was committed."""

    got: dict[str, bytes]

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}"
        address = f"http://127.0.0.1:{self.server.server_port}/me/few"
        if self.path.endswith("/repos/create"):
            answer = {"url": address}
        elif self.path.endswith("/validate-yaml"):
            answer = {"errors": [], "warnings": []}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.got[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"success": True, "commitOid": "1" * 40, "commitUrl": f"{address}/commit/{'1' * 40}"}
        self._say(answer)

    def do_GET(self):
        self._say({"id": "me/few", "sha": "0" * 40, "siblings": []})

    def _say(self, answer):
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    Hub.got = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_push_uploads_the_folder_with_card_and_results(experiment, tmp_path, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files = card.write(experiment, "t3d", tmp_path / "out", "apache-2.0", "me/few")
    names = {str(path.relative_to(tmp_path / "out")) for path in files}
    assert {"README.md", "config.json", "model.safetensors", ".eval_results/gsm-b4s2.yaml"} <= names
    card.push(tmp_path / "out", "me/few", private=False, endpoint=hub, token="hf_x")
    assert Hub.got.keys() == names
    assert Hub.got["model.safetensors"] == b"weights"
    assert b'from_pretrained("me/few")' in Hub.got["README.md"]


def test_a_hub_that_is_not_there_is_said_and_a_dry_run_asks_nobody(experiment, tmp_path, capsys, monkeypatch):
    words = ["push", "--experiment", "qwen", "--model", "t3d", "--repository", "me/few", "--dry-run"]
    monkeypatch.setattr("sys.argv", ["t3d", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "README.md" in capsys.readouterr().out
    with pytest.raises(SourceError, match="was not pushed"):
        card.push(tmp_path, "me/few", private=False, endpoint="http://127.0.0.1:9", token="hf_x")
    with pytest.raises(ParameterError, match="owner/name"):
        card.write(experiment, "t3d", tmp_path / "new", None, "me/few/more")
    with pytest.raises(ParameterError, match="holds something"):
        card.write(experiment, "t3d", tmp_path, None, "me/few")
