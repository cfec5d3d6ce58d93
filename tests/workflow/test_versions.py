"""Publishing and fetching with real git, DVC and Snakemake: what a clone gets back, and what it then makes again."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
import yaml
from botocore.exceptions import EndpointConnectionError

from t3d import lineage, params, recipes
from tests.conftest import ROOT
from tests.workflow.small import (
    BENCHMARKS,
    EVALUATIONS,
    MODELS,
    MODULE,
    dvc,
    git,
    planned,
    run,
    snakemake,
    t3d,
    twin,
    write,
)

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


def test_no_path_of_a_machine_is_published(demo):
    data = demo / "data" / "demo"
    files = [
        *data.rglob("*.manifest.json"),
        *data.rglob("*.receipt.json"),
        *(demo / "provenance").iterdir(),
        demo / "dvc.lock",
    ]
    assert len(files) > 20
    for path in files:
        text = path.read_text()
        assert str(demo) not in text, path
        assert not re.search(r'"(/|[A-Za-z]:\\)[^"]*"', text), path


def test_without_scores_the_report_names_them_and_how_to_get_them(clone):
    said = snakemake(clone, "-s", "workflow/report.smk", check=False)
    assert "data/demo/scores/pocket-sdar/gsm/b8s2.manifest.json" in said
    assert "t3d pull scores --experiment demo" in said
    rules = set(snakemake(clone, "-s", "workflow/report.smk", "--list-rules").split())
    assert rules >= {"table", "figure"}
    assert not rules & {"student", "answers", "trajectories", "teacher"}


def test_scores_give_the_tables_of_git_byte_by_byte_in_five_clones(demo, tmp_path):
    # What lies in git alone is enough: no other remote is there.
    def rebuilt(number: int) -> str:
        project = tmp_path / f"clone{number}"
        git(tmp_path, "clone", "--quiet", str(demo), project.name)
        run(project, [*MODULE["dvc"], "remote", "modify", "--local", "local", "url", str(tmp_path / "nowhere")])
        t3d(project, "pull", "scores")
        shuffle_times(project, number)
        snakemake(project, "-s", "workflow/report.smk", "--forcerun", "table", "--until", "table")
        said = git(project, "status", "--porcelain", "results")
        shutil.rmtree(project)
        return said

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(rebuilt, range(5))) == [""] * 5


def test_a_clone_with_everything_makes_nothing_again_whatever_the_file_times(whole):
    shuffle_times(whole, 1)
    assert "Nothing to be done" in snakemake(whole, "-n")
    assert "Nothing to be done" in snakemake(whole, "-n", "results/table1.csv")
    # Manifests and receipts are what plans are made of; the blobs may be elsewhere.
    for path in (whole / "data" / "demo").rglob("*"):
        if path.is_file() and not path.name.endswith((".manifest.json", ".receipt.json")):
            path.unlink()
    assert "Nothing to be done" in snakemake(whole, "-n")


def test_a_change_plans_what_follows_from_it_and_nothing_else(whole):
    report = {"demo/table1.csv", "table1.csv", "demo/figures/accuracy.pdf"}
    content = twin()
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(whole, content)
    assert planned(whole) == {"students/t3d-seed0"} | EVALUATIONS | report
    content = twin()
    content["tables"]["table1"]["budgets"].append("b8s4")
    write(whole, content)
    new = {f"{kind}/{m}/{name}/b8s4" for kind in ("answers", "scores") for m in MODELS for name in BENCHMARKS}
    assert planned(whole) == new | {"demo/table1.csv", "table1.csv"}
    write(whole, twin())
    objectives = whole / "t3d" / "distillation" / "objectives.py"
    objectives.write_text("# A remark.\n" + objectives.read_text())
    assert planned(whole) == set()
    looks = whole / "t3d" / "reporting" / "figures" / "looks.py"
    looks.write_text(looks.read_text().replace("ALONE = 4.2", "ALONE = 4.3"))
    assert planned(whole) == {"demo/figures/accuracy.pdf"}


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
    lock = yaml.safe_load((whole / "dvc.lock").read_text())["stages"]
    # Without its records Snakemake does not see that a parameter changed, only file times.
    shutil.rmtree(whole / ".snakemake")
    for path in (whole / "data").rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    content = twin()
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(whole, content)
    said = dvc(whole, "repro", "students@demo", check=False)
    assert "students/t3d-seed0 was made with other parameters than params/demo.yaml" in said
    after = yaml.safe_load((whole / "dvc.lock").read_text())["stages"]
    assert after["students@demo"] == lock["students@demo"]
    # Rollouts belong to the new parameters as well as to the old ones.
    assert after["trajectories@demo"]["outs"] == lock["trajectories@demo"]["outs"]


def test_a_receipt_that_does_not_fit_stops_the_table_and_names_the_field(whole):
    receipt = whole / "data" / "demo" / "scores" / "t3d-seed0" / "gsm" / "b8s2.receipt.json"
    receipt.chmod(0o644)
    content = json.loads(receipt.read_text())
    content["params"]["task"] = "another"
    receipt.write_text(json.dumps(content))
    said = snakemake(whole, "-s", "workflow/report.smk", "--forcerun", "table", check=False)
    assert "t3d-seed0/gsm/b8s2.receipt.json: params.task is 'another'" in said
    assert not (whole / TABLE).exists()


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("trajectories/gsm/0-of-2.parquet", "trajectories"),
        ("students/t3d-seed0/model.safetensors", "students"),
        ("scores/t3d-seed0/gsm/b8s2.parquet", "scores"),
    ],
)
def test_a_flipped_byte_is_refused_by_name(whole, file, stage):
    path = whole / "data" / "demo" / file
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{file}: the content does not match the sha256" in t3d(whole, "verify", stage, check=False)
    assert f"{file}: the content does not match the sha256" in t3d(whole, "publish", check=False)


def test_two_publications_at_once_lose_nothing(whole):
    said: list[str] = []
    threads = [threading.Thread(target=lambda: said.append(t3d(whole, "publish", check=False))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any("Published." in text for text in said)
    assert all("Published." in text or "another t3d publish or pull is running" in text for text in said)
    assert "Data and pipelines are up to date" in dvc(whole, "status")


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
    assert "dvc.yaml: experiment other is not in `foreach` of trajectories" in said
    assert "experiment other has not been published" in t3d(clone, "pull", "--experiment", "other", check=False)


def test_a_cell_is_traced_to_its_commands_commits_and_digests(whole):
    assert "t3d/gsm/b8s2" in t3d(whole, "trace", "results/table1.csv").split()
    found = json.loads(t3d(whole, "trace", "results/table1.csv", "--cell", "t3d/gsm/b8s2", "--json"))
    chain = {origin["artefact"]: origin for origin in found["t3d-seed0"]}
    assert next(iter(chain)) == "scores/t3d-seed0/gsm/b8s2"
    assert set(chain) >= {"students/t3d-seed0", "trajectories/gsm/0-of-2", "teachers/pocket-sdar", "prompts/gsm-test"}
    for origin in chain.values():
        assert all(value is not None for value in origin.values()), origin
    assert chain["students/t3d-seed0"]["command"].startswith("t3d distill --experiment demo --run t3d-seed0")
    assert chain["students/t3d-seed0"]["seeds"] == {"seed": 0, "student_seed": 0}
    commit = git(whole, "rev-list", "--max-parents=0", "HEAD").strip()
    assert chain["students/t3d-seed0"]["git_commit"] == commit
    assert "has no cell 'x'" in t3d(whole, "trace", "results/table1.csv", "--cell", "x", check=False)


def test_dvc_reads_the_parameters_that_the_rules_read():
    """A key of an experiment that decides an artefact, or which artefacts there are, is a parameter of its stage."""
    experiment = params.load(ROOT / "params" / "demo.yaml")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    read: dict[str, set[str]] = {stage: set() for stage in stages}

    class Watched:
        def __getattr__(self, name):
            if name in type(experiment).model_fields:
                seen.add(name)
            value = getattr(experiment, name)
            return value

        # What is computed from a field reads that field.
        runs = property(lambda self: (seen.add("students"), experiment.runs)[1])
        cells_of = property(lambda self: (seen.update(("students", "teachers")), experiment.cells_of)[1])

    for stage in stages:
        seen: set[str] = set()
        watched = Watched()
        for artefact in lineage.artefacts_of(watched, lineage.products_of(watched).values()):
            if lineage.stage_of(artefact) == stage:
                recipes.artefact_params(watched, artefact)
        read[stage] = seen - {"name"}
    for stage, definition in stages.items():
        ((listed,),) = [entry.values() for entry in definition["do"]["params"]]
        assert read[stage] <= set(listed), stage
    assert set.union(*read.values()) == set(listed)


def test_outs_of_dvc_are_disjoint():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [path for stage in stages.values() for out in stage["do"]["outs"] for path in out]
    assert len(outs) == len(set(outs))
    assert not [a for a in outs for b in outs if a != b and a.startswith(b + "/")]
