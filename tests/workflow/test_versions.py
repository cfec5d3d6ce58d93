"""Publishing and fetching with real git, DVC and Snakemake: what a clone gets back, and what it then makes again."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

from t3d import params
from t3d.errors import CorruptArtefactError
from t3d.provenance import environment, verify
from t3d.reporting import csv_format
from tests.workflow.small import MODULE, REPORT, begin, dvc, git, planned, snakemake, t3d, twin, write

TABLE = Path("results", "demo", "table1.csv")


def shuffle_times(project: Path, seed: int) -> None:
    """Give every file of a project another time, in an order that means nothing."""
    files = sorted(path for path in project.rglob("*") if path.is_file() and ".git" not in path.parts)
    times = random.Random(seed).sample(range(1_600_000_000, 1_700_000_000), len(files))
    for path, changed in zip(files, times, strict=True):
        os.utime(path, (changed, changed))


@pytest.fixture
def clone(demo, tmp_path):
    """A fresh clone, nothing fetched."""
    git(tmp_path, "clone", "--quiet", str(demo), "clone")
    return tmp_path / "clone"


@pytest.fixture(scope="module")
def fetched(demo, tmp_path_factory):
    """A clone that has fetched everything."""
    folder = tmp_path_factory.mktemp("fetched") / "clone"
    git(folder.parent, "clone", "--quiet", str(demo), "clone")
    t3d(folder, "pull", "all")
    return folder


@pytest.fixture
def whole(fetched, tmp_path):
    """A clone of its own for a test, with everything."""
    return shutil.copytree(fetched, tmp_path / "clone", symlinks=True)


def test_what_is_published_is_what_dvc_would_run(demo):
    assert "Data and pipelines are up to date" in dvc(demo, "status")
    assert "Nothing to be done" in snakemake(demo, "-n")


def test_dvc_shows_the_accuracies_of_the_table(demo, tmp_path):
    rows = csv_format.read(demo / TABLE)
    means = rows[rows["benchmark"].eq("average")].set_index("method")["accuracy"]
    (found,) = json.loads(dvc(demo, "metrics", "show", "--json"))[""]["data"].values()
    assert {method: at["4"] for method, at in found["data"]["table1"].items()} == pytest.approx(means.to_dict())
    assert "table1.T3D.4" in dvc(demo, "exp", "show", "--csv")
    dvc(demo, "plots", "show", "--out", str(tmp_path))
    assert '"T3D"' in (tmp_path / "index.html").read_text()


def test_no_path_of_a_machine_is_published(demo):
    texts = {"dvc.lock": (demo / "dvc.lock").read_text()}
    with tarfile.open(demo / "results" / "demo" / "published.tar.xz") as tar:
        texts |= {m.name: tar.extractfile(m).read().decode() for m in tar if not m.name.endswith(".parquet")}
    assert {name.rpartition(".")[2] for name in texts} == {"lock", "json", "jsonl"}
    assert len(texts) > 20
    for name, text in texts.items():
        assert str(demo) not in text, name
        assert not re.search(r'"(/|[A-Za-z]:\\)[^"]*"', text), name


def test_without_scores_the_report_names_them_and_how_to_get_them(clone):
    said = snakemake(clone, rules="workflow/report.smk", check=False)
    assert "data/demo/scores/pocket-sdar/gsm/b8s2.manifest.json" in said
    assert "t3d pull scores --experiment demo" in said
    # Answers are not in git.
    figure = "results/demo/figures/commits.pdf"
    assert "t3d pull all --experiment demo" in snakemake(clone, figure, rules="workflow/report.smk", check=False)
    listed = snakemake(clone, "--list-rules", rules="workflow/report.smk")
    rules = set(re.findall(r"^(\w+) \(", listed, flags=re.MULTILINE))
    assert rules >= {"table", "figure"}
    assert not rules & {"student", "answers", "trajectories", "teacher"}


def test_scores_give_the_tables_of_git_byte_by_byte(clone):
    # What lies in git alone is enough: no remote is there.
    dvc(clone, "remote", "modify", "--local", "local", "url", str(clone.parent / "nowhere"))
    published = (clone / "results" / "demo" / "published.sha256").read_text().splitlines()
    assert f"{len(published) - 1} files are here as they were published." in t3d(clone, "pull")
    # Plans are made of manifests; weights, trajectories and answers may be elsewhere.
    assert "Nothing to be done" in snakemake(clone, "-n")
    shuffle_times(clone, 0)
    snakemake(clone, "--forcerun", "table", "--until", "table", rules="workflow/report.smk")
    assert git(clone, "status", "--porcelain", "results") == ""
    # Where a command cannot work, none is advised.
    origins = t3d(clone, "trace", "results/table1.csv", "--cell", "t3d/gsm/b8s2")
    assert "t3d distill" in origins
    assert "pull" not in origins


def test_a_clone_with_everything_makes_nothing_again_whatever_the_file_times(whole):
    shuffle_times(whole, 1)
    assert "Nothing to be done" in snakemake(whole, "-n")
    assert "Nothing to be done" in snakemake(whole, "-n", "results/table1.csv")


def test_code_plans_the_report_alone(whole):
    for file, follows in (("distillation/objectives.py", set()), ("reporting/statistics.py", REPORT)):
        path = whole / "t3d" / file
        path.write_text("# A remark.\n" + path.read_text())
        assert planned(whole, real=True) == follows


def test_dvc_exp_run_stops_before_it_touches_anything(whole):
    """It would lose the override in an anchor, and delete what Snakemake made and DVC has not in its cache."""
    shutil.rmtree(whole / ".dvc" / "cache")
    (whole / "params" / "reported.csv").write_text((whole / "params" / "reported.csv").read_text() + "\n")

    def seen():
        paths = [path for folder in ("data", "params", "results") for path in (whole / folder).rglob("*")]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    before, edited = seen(), git(whole, "status", "--porcelain")
    override = "params/demo.yaml:students.t3d.optimizer.learning_rate=8e-4"
    for arguments in (["-S", override], ["--queue", "-S", "params/demo.yaml:seed=1,2"], ["--temp"], []):
        said = dvc(whole, "exp", "run", *arguments, check=False)
        assert "dvc exp run is switched off: it would delete what data/ holds and dvc.lock does not" in said
        assert seen() == before
        assert git(whole, "status", "--porcelain") == edited
    assert git(whole, "stash", "list") == ""


def test_a_lock_never_pairs_new_parameters_with_old_weights(whole):
    lock = (whole / "dvc.lock").read_text()
    # Without its records Snakemake does not see that a parameter changed, only file times.
    shutil.rmtree(whole / ".snakemake")
    for path in (whole / "data").rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    content = twin()
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(whole, content)
    wrong = "students/t3d-seed0 was made with other parameters than params/demo.yaml"
    assert wrong in dvc(whole, "repro", check=False)
    # Whoever lets that pass is stopped by the second command of the stage.
    said = t3d(whole, "verify", "models", check=False)
    assert wrong in said
    assert (whole / "dvc.lock").read_text() == lock


def test_a_receipt_that_does_not_fit_stops_the_table_and_names_the_field(whole):
    receipt = whole / "data" / "demo" / "scores" / "t3d-seed0" / "gsm" / "b8s2.receipt.json"
    receipt.chmod(0o644)
    content = json.loads(receipt.read_text())
    content["params"]["task"] = "another"
    receipt.write_text(json.dumps(content))
    said = snakemake(whole, "--forcerun", "table", rules="workflow/report.smk", check=False)
    assert "t3d-seed0/gsm/b8s2.receipt.json: params.task is 'another'" in said
    assert not (whole / TABLE).exists()


@pytest.mark.parametrize(
    "file",
    ["trajectories/gsm/0-of-2.parquet", "students/t3d-seed0/model.safetensors", "scores/t3d-seed0/gsm/b8s2.parquet"],
)
def test_a_flipped_byte_is_refused_by_name(whole, file, monkeypatch):
    path = whole / "data" / "demo" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    monkeypatch.chdir(whole)
    with pytest.raises(CorruptArtefactError, match=f"{file}: the content does not match the sha256"):
        verify.models(params.find("demo"))
    assert f"{file}: the content does not match the sha256" in t3d(whole, "publish", check=False)


def test_two_publications_at_once_lose_nothing(whole):
    both = [begin(whole, [*MODULE["t3d.cli"], "publish"]) for _ in range(2)]
    said = ["".join(process.communicate(timeout=900)) for process in both]
    assert any("Published." in text for text in said)
    assert all("Published." in text or "the DVC cache is being written by process" in text for text in said)
    assert "Data and pipelines are up to date" in dvc(whole, "status")
    # What was published before comes out byte by byte.
    assert git(whole, "status", "--porcelain") == ""


@pytest.mark.remote
def test_an_s3_remote_gives_back_what_it_was_given(whole, tmp_path, monkeypatch):
    """A real S3 server on this machine."""
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        s3 = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        for _ in range(100):
            with suppress(EndpointConnectionError):
                s3.create_bucket(Bucket="artefacts")
                break
            time.sleep(0.3)

        def use_s3(project: Path) -> None:
            dvc(project, "remote", "modify", "--local", "local", "url", "s3://artefacts/t3d")
            dvc(project, "remote", "modify", "--local", "local", "endpointurl", address)

        use_s3(whole)
        t3d(whole, "publish")
        assert s3.list_objects_v2(Bucket="artefacts")["KeyCount"] > 10
        git(tmp_path, "clone", "--quiet", str(whole), "reader")
        reader = tmp_path / "reader"
        use_s3(reader)
        t3d(reader, "pull", "all")
        assert "Nothing to be done" in snakemake(reader, "-n")
    finally:
        server.kill()
        server.wait()


def test_what_is_not_up_to_date_is_not_published(whole):
    content = twin()
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(whole, content)
    said = t3d(whole, "publish", check=False)
    assert "not everything is up to date; run snakemake" in said
    assert "Traceback" not in said


def test_an_experiment_that_is_not_versioned_is_named(clone):
    shutil.copy(clone / "params" / "demo.yaml", clone / "params" / "other.yaml")
    said = t3d(clone, "publish", "--experiment", "other", check=False)
    assert "dvc.yaml: experiment other is not in `foreach` of models, tables" in said
    said = t3d(clone, "pull", "--experiment", "other", check=False)
    assert (
        "experiment other was not published: there is no results/other/published.tar.xz. Published are: demo." in said
    )


def test_a_cell_is_traced_to_its_commands_commits_and_digests(whole):
    listed = t3d(whole, "trace", "results/table1.csv")
    (line,) = [line for line in listed.splitlines() if line.startswith("t3d/gsm/b8s2 ")]
    score = json.loads((whole / "data/demo/scores/t3d-seed0/gsm/b8s2.json").read_text())
    said = f"{100 * score['accuracy']:.1f} %, {score['correct']} of {score['n']} right"
    assert line.split(maxsplit=1)[1] == said
    assert t3d(whole, "trace", "results/table1.csv", "--cell", "t3d/gsm/b8s2").startswith(f"t3d/gsm/b8s2: {said}\n")
    found = json.loads(t3d(whole, "trace", "results/table1.csv", "--cell", "t3d/gsm/b8s2", "--json"))
    chain = {origin["artefact"]: origin for origin in found["t3d-seed0"]["origins"]}
    assert next(iter(chain)) == "scores/t3d-seed0/gsm/b8s2"
    assert set(chain) >= {"students/t3d-seed0", "trajectories/gsm/0-of-2", "teachers/pocket-sdar", "prompts/gsm-test"}
    for origin in chain.values():
        assert all(value is not None for value in origin.values()), origin
    assert chain["students/t3d-seed0"]["command"].startswith("t3d distill --experiment demo --run t3d-seed0")
    assert chain["students/t3d-seed0"]["seeds"] == {"seed": 0, "student_seed": 0}
    # Its job was a fork of a process that has the code of this repository.
    assert chain["students/t3d-seed0"]["git_commit"] == environment.git_commit()
    assert "has no cell 'x'" in t3d(whole, "trace", "results/table1.csv", "--cell", "x", check=False)
