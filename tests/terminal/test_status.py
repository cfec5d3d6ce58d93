"""`t3d status` on a small project whose artefacts have real manifests and receipts."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from t3d import params
from t3d.provenance import lineage, recipes, records, store, writer
from t3d.terminal import status as looking
from tests.conftest import ROOT
from tests.started import forked, set_up
from tests.terminal.screen import drawn_by


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two students, one benchmark, one budget: everything behind table 1 made, with a line of text for content."""
    content = json.loads(json.dumps(yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())))
    table = content["tables"]["table1"] | {"students": ["naive-td", "t3d"], "benchmarks": ["gsm"], "budgets": ["b8s2"]}
    students = {key: content["students"][key] for key in table["students"]}
    content |= {"students": students, "tables": {"table1": table}, "figures": {}}
    monkeypatch.chdir(set_up(tmp_path, "twin", yaml.safe_dump(content, sort_keys=False)))
    experiment = params.find("twin")
    for artefact in lineage.artefacts_of(experiment, experiment.tables.values()):
        sources = [store.read(path(source)) for source in lineage.inputs_of(experiment, artefact)]
        with writer.writing(experiment, artefact, path(artefact), inputs=sources) as job:
            job.file(".txt").write_text("x")
            job.receipt |= {"seconds": 50, "start_seconds": 0}
    (tmp_path / "results" / "twin").mkdir(parents=True)
    (tmp_path / "results" / "twin" / "table1.csv").write_text("x")
    (tmp_path / "results" / "table1.csv").write_text("x")
    (tmp_path / "results" / "twin" / "metrics.json").write_text("x")
    return tmp_path


FOLLOWS = (("students", ""), ("answers", "/gsm/b8s2"), ("scores", "/gsm/b8s2"))


def path(artefact: str) -> Path:
    return Path("data", "twin", artefact + store.MANIFEST)


def status(*arguments):
    done = forked(Path.cwd(), ["status", "--experiment", "twin", *arguments])
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    return done.stdout


def seen():
    found = json.loads(status("--json"))
    return found, {stage["kind"]: (stage["made"], stage["stale"], stage["missing"]) for stage in found["stages"]}


def test_what_is_made_is_counted_and_nothing_remains(project):
    text = status()
    rows = [line.split() for line in text.splitlines()]
    assert ["table1.csv", "made", "15", "of", "15", "artefacts"] in rows
    assert ["scores", "3", "of", "3", "0", "0"] in rows
    assert "All default tables and figures are made." in text


def test_missing_work_takes_the_median_of_its_kind(project):
    path("scores/t3d-seed0/gsm/b8s2").unlink()
    path("answers/t3d-seed0/gsm/b8s2").unlink()
    found, stages = seen()
    assert (stages["answers"], stages["scores"], stages["students"]) == ((2, 0, 1), (2, 0, 1), (2, 0, 0))
    # Of a table that is there Snakemake looks for nothing.
    assert found["remaining"] == {"jobs": 0, "seconds": 0.0, "unknown": 0, "by": "records"}
    assert found["targets"][0]["state"] == "incomplete"
    Path("results/twin/table1.csv").unlink()
    # The table, its copy and the metrics were made by nobody here.
    assert "5 jobs left, about 2 min as the sum of job times, and 3 of unknown time." in status()
    assert seen()[0]["targets"][0]["state"] == "missing"


def test_the_time_of_a_job_is_what_snakemake_recorded_or_else_that_of_its_receipt_with_its_start(project):
    for artefact in lineage.artefacts_of(params.find("twin"), params.find("twin").tables.values()):
        place = records._place(str(path(artefact)))
        if artefact.startswith("answers"):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps({"starttime": 100.0, "endtime": 170.0}))
        receipt = path(artefact).with_name(path(artefact).name.replace(store.MANIFEST, store.RECEIPT))
        content = json.loads(receipt.read_text())
        receipt.write_text(json.dumps(content | {"seconds": 50, "start_seconds": 4}))
    for artefact in ("answers/t3d-seed0/gsm/b8s2", "scores/t3d-seed0/gsm/b8s2"):
        path(artefact).unlink()
    Path("results/twin/table1.csv").unlink()
    assert seen()[0]["remaining"] == {"jobs": 5, "seconds": 124.0, "unknown": 3, "by": "records"}


def test_a_changed_parameter_makes_stale_what_follows_and_nothing_else(project):
    file = project / "params" / "twin.yaml"
    content = yaml.safe_load(file.read_text())
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    found, stages = seen()
    assert (stages["students"], stages["answers"], stages["scores"]) == ((1, 1, 0), (2, 1, 0), (2, 1, 0))
    assert stages["trajectories"][1:] == (0, 0)
    assert list(found["stale"]) == [f"{kind}/t3d-seed0{rest}" for kind, rest in FOLLOWS]
    for reason in found["stale"].values():
        assert "students/t3d-seed0 was made with other parameters than params/twin.yaml holds now" in reason
    assert found["targets"][0]["state"] == "stale"


def test_a_torn_file_and_an_input_made_again_are_stale(project):
    (project / "data/twin/students/naive-td-seed0.txt").write_text("torn")
    manifest = path("answers/t3d-seed0/gsm/b8s2")
    manifest.write_text(manifest.read_text() + "\n")
    stale = seen()[0]["stale"]
    assert "inputs.answers/t3d-seed0/gsm/b8s2 is not the file at" in stale["scores/t3d-seed0/gsm/b8s2"]
    assert "naive-td-seed0.txt: 4 bytes" in stale["students/naive-td-seed0"]


def test_a_table_is_made_where_its_scores_are_and_models_and_answers_are_not(project):
    """As after `t3d pull scores`: manifests and receipts of everything, files of scores."""
    for file in (project / "data" / "twin").rglob("*.txt"):
        if "scores" not in file.parts:
            file.unlink()
    text = status()
    assert ["table1.csv", "made", "3", "of", "15", "artefacts"] in [line.split() for line in text.splitlines()]
    assert "All that such a file shows is here." in text
    assert "All default tables and figures are made." in text
    assert "stale:" not in text
    # A job that judges answers reads them, so what they are made from is needed, and all that follows from it.
    path("scores/t3d-seed0/gsm/b8s2").unlink()
    Path("results/twin/table1.csv").unlink()
    assert seen()[0]["remaining"]["jobs"] == 18


def _used(options):
    return {name: value for name, value in options.items() if value is not None}


@pytest.mark.parametrize(
    ("edit", "state"),
    [
        (lambda content: content, "made"),
        (lambda content: [*content[:-1], "0" * 64], "older code"),
        # As it was recorded before there was an option that is not used.
        (lambda content: [_used(content[0]), *content[1:-1], "0" * 64], "older code"),
        (lambda content: [content[0] | {"caption": "Another"}, *content[1:]], "stale"),
    ],
)
def test_a_table_of_other_code_is_told_from_one_of_other_parameters(project, edit, state):
    twin = params.find("twin")
    place = records._place("results/twin/table1.csv")
    place.parent.mkdir(parents=True, exist_ok=True)
    shown = recipes.canonical(edit(json.loads(recipes.shown(twin, twin.tables["table1"]))))
    place.write_text(json.dumps({"params": [repr("twin"), repr(shown)]}))
    found = seen()[0]
    assert found["targets"][0]["state"] == state
    # The table, its copy and the metrics.
    assert found["remaining"]["jobs"] == (0 if state == "made" else 3)
    assert (f"\n{state}: the file" in status()) == (state != "made")


def test_an_input_that_is_another_one_and_not_newer_plans_nothing(project):
    """Snakemake compares times first; what it is stays listed as stale."""
    score, answers = path("scores/t3d-seed0/gsm/b8s2"), path("answers/t3d-seed0/gsm/b8s2")
    answers.write_text(answers.read_text() + "\n")
    made = score.stat().st_mtime
    for changed, jobs in ((made - 10, 0), (made + 10, 4)):
        os.utime(answers, (changed, changed))
        found = seen()[0]
        assert list(found["stale"]) == ["scores/t3d-seed0/gsm/b8s2"]
        assert found["remaining"]["jobs"] == jobs


def test_a_table_older_than_its_scores_is_stale(project):
    os.utime("results/twin/table1.csv", (1e9, 1e9))
    assert seen()[0]["targets"][0]["state"] == "stale"


@pytest.mark.parametrize(("text", "step"), [("37\n", 37), ("", None), (None, None)])
def test_running_jobs_are_seen_with_the_steps_that_are_done(project, monkeypatch, text, step):
    """Saved or not; the file may be read while it is written."""
    # A folder lists its files in any order; here the file of steps is not the last.
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda *given, **named: iter(sorted(listed(*given, **named))))
    path("students/t3d-seed0").unlink()
    (project / "data/twin/students/t3d-seed0.partial").mkdir()
    work = project / "work" / "twin" / "t3d-seed0"
    work.mkdir(parents=True)
    (work / "step-0000020.pt").write_text("x")
    if text is not None:
        (work / "step").write_text(text)
    (job,) = seen()[0]["running"]
    assert (job["artefact"], job["step"], job["of"]) == ("students/t3d-seed0", step, 40)
    assert job["quiet_seconds"] < 60
    assert f"begun: students/t3d-seed0, step {step or 0} of 40, last written" in status()


def test_a_manifest_that_lacks_a_recipe_is_stale(project):
    manifest = path("students/t3d-seed0")
    content = json.loads(manifest.read_text())
    del content["recipes"]["teachers/pocket-sdar"]
    manifest.write_text(json.dumps(content))
    assert "recipes lacks teachers/pocket-sdar" in seen()[0]["stale"]["students/t3d-seed0"]
    manifest.write_text(json.dumps(content | {"recipes": {}}))
    assert "recipes lacks that of students/t3d-seed0 itself" in seen()[0]["stale"]["students/t3d-seed0"]


def test_nothing_made_says_what_there_is_to_do(project):
    shutil.rmtree("data/twin")
    text = status()
    assert "incomplete  0 of 15 artefacts" in text
    assert "Nothing is left to make: all default tables and figures are files that are here." in text
    shutil.rmtree("results")
    assert "18 jobs left; nothing of their kind was made yet" in status()


def test_it_fits_sixty_columns_and_explains_its_words(project):
    shutil.copy(ROOT / "params" / "demo.yaml", project / "params" / "twin.yaml")
    names = ["table9.csv", "figures/factorisation.pdf"]
    (project / "results" / "twin" / "figures").mkdir()
    for name in names:
        (project / "results" / "twin" / name).write_text("x")
    text = looking.to_text(looking.look(params.find("twin")), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert all(f" {name} " in text for name in names)
    assert re.search(r"^incomplete: the file is here", text, flags=re.MULTILINE)
    assert "\nstale:" not in text.partition("stage")[0]
    os.utime("results/twin/table1.csv", (1e9, 1e9))
    assert "\nstale: the file is older than what it shows" in status()


def test_a_gpu_experiment_is_told_by_its_cost(project):
    shutil.copy(ROOT / "params" / "paper.yaml", project / "params" / "twin.yaml")
    found = json.loads(status("--json"))
    assert found["remaining"]["by"] == "cost"
    assert found["remaining"]["seconds"] > 3600
    tables = looking.Remaining(3, 0.0, 0, "cost")
    nothing = looking.Status("paper", [], [], {}, [], tables)
    assert "3 jobs left, all of them tables and figures: no GPU." in looking.to_text(nothing)


def test_a_terminal_gets_colours(project):
    drawn = drawn_by([sys.executable, "-m", "t3d.cli", "status", "--experiment", "twin"], Path.cwd(), seconds=60)
    assert "\x1b[32mmade" in drawn
