"""What Snakemake alone would take for finished: it is planned, or Snakemake stops and says what to type."""

import os
import re
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from t3d.params import load
from t3d.provenance import unseen
from tests.conftest import ROOT
from tests.workflow.small import EVALUATIONS, REPORT, planned, snakemake, twin, write

TABLE, FIGURE = "results/demo/table1.csv", "results/demo/figures/accuracy.pdf"


@pytest.fixture
def clone(project):
    """What git keeps of it: parameters, tables and figures."""
    for name in ("data", ".snakemake"):
        shutil.rmtree(project / name)
    (project / "results" / "table1.csv").unlink()
    (project / "data").mkdir()
    (project / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    return project


def forced(output):
    """The end of the command line that a message advises."""
    return re.search(r"--forcerun .*", output).group().split()


@pytest.mark.parametrize("target", [TABLE, FIGURE, "results/demo/table1.md", "results/demo/figures/accuracy.png"])
def test_a_table_of_git_whose_scores_are_missing_is_not_called_finished(clone, target):
    output = snakemake(clone, "-n", target, check=False)
    assert "for finished" in output
    assert "b8s2.manifest.json, which is missing" in output
    assert planned(clone, target, *forced(output)) >= EVALUATIONS


def test_copies_outside_git_plan_what_they_show(clone):
    assert planned(clone) >= {"students/sft-seed0", "students/t3d-seed0"} | EVALUATIONS | REPORT
    assert planned(clone, "results/table1.csv") >= EVALUATIONS | {"demo/table1.csv", "table1.csv"}
    assert planned(clone, "results/figures/accuracy.pdf") >= EVALUATIONS | {"demo/figures/accuracy.pdf"}


def test_without_records_a_changed_parameter_stops_with_what_to_type(project):
    shutil.rmtree(project / ".snakemake")
    content = twin()
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(project, content)
    output = snakemake(project, "-n", check=False)
    student = "data/demo/students/t3d-seed0.manifest.json"
    assert "students/t3d-seed0 was made with other parameters than params/demo.yaml holds now" in output
    assert f"Snakemake would take {student} for finished" in output
    assert planned(project, *forced(output)) == {"students/t3d-seed0"} | EVALUATIONS | REPORT


def test_without_records_a_table_stops_too(project):
    """Its labels may have changed. Nothing that is expensive is made again."""
    shutil.rmtree(project / ".snakemake")
    output = snakemake(project, "-n", check=False)
    assert "There is no record of how results/demo/table1.csv was made" in output
    assert planned(project, *forced(output)) == REPORT


def test_a_table_whose_job_was_killed_before_its_record_was_written_is_made_again(project):
    name = urlsafe_b64encode(TABLE.encode()).decode()
    for record in (None, '{"rule": "table", "inp'):
        noted = project / ".snakemake" / "metadata" / name
        noted.unlink() if record is None else noted.write_text(record)
        (project / ".snakemake" / "incomplete" / name).write_text("{}")
        assert planned(project, TABLE) >= {"demo/table1.csv"}


def test_a_score_that_was_deleted_is_made_again(project):
    (project / "data" / "demo" / "scores" / "t3d-seed0" / "gsm" / "b8s2.manifest.json").unlink()
    output = snakemake(project, "-n", TABLE, check=False)
    assert planned(project, TABLE, *forced(output)) == {"scores/t3d-seed0/gsm/b8s2", "demo/table1.csv"}


def test_a_new_budget_is_planned_by_the_name_of_what_shows_it(project):
    content = twin()
    for product in (content["tables"]["table1"], content["figures"]["accuracy"]):
        product["budgets"] = ["b8s2", "b8s1"]
    write(project, content)
    for target in ("results/table1.csv", TABLE, FIGURE):
        plan = planned(project, target)
        assert "scores/t3d-seed0/gsm/b8s1" in plan
        assert "students/t3d-seed0" not in plan
        assert any(name.startswith("demo/") for name in plan)


def test_a_reviewer_is_refused_before_anything_is_touched(project):
    """The archive of an experiment may hold manifests without answers."""
    answers = project / "data" / "demo" / "answers" / "t3d-seed0" / "gsm" / "b8s2.parquet"
    content = twin()
    content["figures"]["commits"] |= {"on_request": False, "budgets": ["b8s2"]}
    write(project, content)
    drawn = project / "results" / "demo" / "figures" / "commits.pdf"
    snakemake(project, f"results/demo/figures/{drawn.name}")
    answers.unlink()
    before = drawn.read_bytes()
    output = snakemake(project, "--forceall", rules="workflow/report.smk")
    assert "Left as they are, since not all they show is here: figures/commits.pdf" in output
    snakemake(project, "results/report.html", rules="workflow/report.smk")
    assert drawn.read_bytes() == before
    named = str(drawn.relative_to(project))
    output = snakemake(project, named, "--forceall", rules="workflow/report.smk", check=False)
    assert "of 1 a file is missing (data/demo/answers/t3d-seed0/gsm/b8s2.parquet)" in " ".join(output.split())
    assert drawn.read_bytes() == before
    # The whole workflow answers again, and other tables do not need the answers.
    target = "results/demo/figures/commits.pdf"
    output = snakemake(project, "-n", target, check=False)
    assert planned(project, target, *forced(output)) == {"answers/t3d-seed0/gsm/b8s2", "demo/figures/commits.pdf"}
    assert "100%" in snakemake(project, TABLE, "--forceall", rules="workflow/report.smk")


def test_weights_that_were_deleted_are_not_missed_by_what_does_not_read_them(project, monkeypatch):
    monkeypatch.chdir(project)
    experiment = load(project / "params" / "demo.yaml")
    for weights in (project / "data" / "demo" / "students").rglob("*.safetensors"):
        weights.unlink()
    assert unseen.files_behind(experiment, []) == {}
    drawn = "results/demo/figures/training.pdf"
    Path(drawn).touch()
    assert list(unseen.files_behind(experiment, [drawn])) == [drawn]


def test_weights_that_were_deleted_are_made_before_a_job_reads_them(project):
    """Snakemake sees the manifest, and the job would fail after everything that is made before it."""
    weights = project / "data" / "demo" / "students" / "t3d-seed0" / "model.safetensors"
    weights.unlink()
    content = twin()
    content["tables"]["table1"]["budgets"] = ["b8s2", "b8s1"]
    write(project, content)
    output = snakemake(project, "-n", TABLE, check=False)
    student = "data/demo/students/t3d-seed0.manifest.json"
    assert f"{weights.relative_to(project)} is missing, though {student} lists it" in output
    # Of the other student the weights are here.
    assert forced(output) == ["--forcerun", student]
    assert planned(project, TABLE, *forced(output)) >= {"students/t3d-seed0", "answers/t3d-seed0/gsm/b8s1"}


def test_what_a_student_that_has_to_be_made_again_learns_from_is_made_first(project, monkeypatch):
    """Of its rollouts, too, only manifests are here; `--forcerun` names the first of the chain."""
    monkeypatch.chdir(project)
    (project / "data" / "demo" / "students" / "t3d-seed0" / "model.safetensors").unlink()
    (project / "data" / "demo" / "answers" / "t3d-seed0" / "gsm" / "b8s2.manifest.json").unlink()
    score = project / "data" / "demo" / "scores" / "t3d-seed0" / "gsm" / "b8s2.manifest.json"
    experiment = load(project / "params" / "demo.yaml")
    # The score is here: nobody asks the student.
    assert unseen.files_behind(experiment, []) == {}
    score.unlink()
    (student,) = (path for path in unseen.files_behind(experiment, []) if "scores" not in path)
    assert student == "data/demo/students/t3d-seed0.manifest.json"
    for shard in (project / "data" / "demo" / "trajectories").rglob("*.parquet"):
        shard.unlink()
    found = [path for path in unseen.files_behind(experiment, []) if "scores" not in path]
    assert found
    assert all(path.startswith("data/demo/trajectories/") for path in found)
    forcing = {"data/demo/students/t3d-seed0.manifest.json"}
    (project / score).write_text("{}")
    assert set(found) <= unseen.files_behind(experiment, [], forcing).keys()


def test_a_file_or_manifest_that_was_cut_short_is_called_damaged(project):
    """Whatever the records say; a manifest that is damaged is not missing."""
    student = project / "data" / "demo" / "students" / "t3d-seed0.manifest.json"
    weights = project / "data" / "demo" / "students" / "t3d-seed0" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    output = snakemake(project, "-n", check=False)
    assert f"model.safetensors: 1000 bytes, {student.relative_to(project)} says {len(whole)}" in output
    assert planned(project, *forced(output)) == {"students/t3d-seed0"} | EVALUATIONS | REPORT
    weights.write_bytes(whole)
    score = project / "data" / "demo" / "scores" / "t3d-seed0" / "gsm" / "b8s2.manifest.json"
    score.write_text(score.read_text()[:40])
    for rules in ("Snakefile", "workflow/report.smk"):
        output = snakemake(project, "-n", TABLE, rules=rules, check=False)
        assert "is missing." not in output
        assert "Delete it, then fetch what was published" in output or "Damaged, so delete" in output


def test_a_manifest_that_cannot_be_read_is_made_again(project, monkeypatch):
    monkeypatch.chdir(project)
    path = "data/demo/scores/t3d-seed0/gsm/b8s2.manifest.json"
    (project / path).write_text("{")
    shutil.rmtree(project / ".snakemake")
    experiment = load(project / "params" / "demo.yaml")
    assert "run its stage again" in unseen.files_behind(experiment, [TABLE])[path]


def test_a_copy_of_another_experiments_table_is_replaced(project):
    """Whatever the records say: two experiments have a table of that name."""
    copy = project / "results" / "table1.csv"
    copy.write_text("method\n")
    os.utime(copy)
    shutil.rmtree(project / ".snakemake")
    output = snakemake(project, "-n", "results/table1.csv", check=False)
    assert "results/table1.csv" in forced(output)
