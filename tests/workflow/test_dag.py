"""The real Snakemake on a small twin of the demo: from nothing to the table, and what a change plans."""

import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pandas as pd
import psutil
import pytest
import yaml

from t3d.evaluation import answers
from t3d.provenance import lineage
from tests.conftest import ROOT
from tests.started import Fork, set_up, wait_for
from tests.workflow.small import (
    BENCHMARKS,
    EVALUATIONS,
    MODELS,
    MODULE,
    REPORT,
    environment,
    planned,
    snakemake,
    twin,
    write,
)


def test_the_table_has_every_row(project):
    table = pd.read_csv(project / "results" / "table1.csv")
    for benchmark in BENCHMARKS:
        cells = table[table["benchmark"] == benchmark]
        assert set(cells["method"]) == {"Original", "SFT", "T3D"}
    cells = table[table["benchmark"] != "average"]
    assert set(cells["tokens_per_step"]) == {4}
    assert (cells["n"] == 6).all()
    assert (project / "results" / "demo" / "table1.tex").is_file()


def test_snakemakes_own_report_has_captions(project, tmp_path):
    snakemake(project, "--report", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    for product in ("table1", "accuracy"):
        assert f"{product} of experiment demo" in page
    assert "Accuracy of few-step decoding" in page


def test_the_report_is_made_of_what_is_there_and_of_nothing_else(project):
    output = snakemake(project, "results/report.html")
    assert re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE) == ["page"]
    text = (project / "results" / "report.html").read_text()
    assert 'id="table1"' in text
    assert 'id="table2"' not in text
    assert 'id="viewer"' in text
    assert "Nothing to be done" in snakemake(project, "results/report.html")
    assert "Nothing to be done" in snakemake(project)


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        # Three models, two benchmarks, two budgets at one token per step.
        ("results/table2.csv", r"^answers +12$"),
        ("results/demo/figures/commits.pdf", r"^answers +6$"),
        # What it shows is there already.
        ("results/demo/figures/training.pdf", r"^total +1$"),
    ],
)
def test_what_is_made_on_request_is_made_when_it_is_asked_for(project, target, jobs):
    assert not (project / target).exists()
    assert re.search(jobs, snakemake(project, "-n", target), flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["demo", "pocket"])
def test_every_table_is_one_target(name, tmp_path):
    set_up(tmp_path, name, (ROOT / "params" / f"{name}.yaml").read_text())
    shutil.copy(ROOT / "params" / "reported.csv", tmp_path / "params")
    tables = [f"results/table{number}.csv" for number in range(1, 10)]
    output = snakemake(tmp_path, "-n", *tables, "--config", f"experiment={name}")
    assert all(f"results/{name}/table{number}.csv" in output for number in range(1, 10))


def test_a_conversion_waits_for_the_models_own_answers(tmp_path):
    (tmp_path / "params").symlink_to(ROOT / "params")
    output = snakemake(tmp_path, "-n", "results/table1.csv", "--config", "experiment=convert")
    at = "data/convert/{}.manifest.json".format
    origins = ", ".join(map(at, ("teachers/ar", "generations/own/0-of-1")))
    assert f"input: {origins}\n    output: {at('teachers/converted')}" in output
    assert re.search(r"^teacher +2$", output, flags=re.MULTILINE)
    assert re.search(r"^generations +1$", output, flags=re.MULTILINE)
    assert "verdicts" not in output


def test_verdicts_are_planned_when_a_conversion_keeps_right_answers(tmp_path):
    content = yaml.safe_load((ROOT / "params" / "convert.yaml").read_text())
    content["generations"]["own"] |= {"task": "gsm_boxed", "shards": 2}
    content["generations"]["more"] = {"prompts": "train"}
    content["teachers"]["converted"] |= {"generations": ["own", "more"]}
    content["teachers"]["converted"]["conversion"]["keep"] = "right"
    set_up(tmp_path, "convert", yaml.safe_dump(content))
    shutil.copy(ROOT / "params" / "reported.csv", tmp_path / "params")
    output = snakemake(tmp_path, "-n", "results/table1.csv", "--config", "experiment=convert")
    at = "data/convert/{}.manifest.json".format
    assert re.search(r"^verdicts +2$", output, flags=re.MULTILINE)
    judged = ", ".join(map(at, ("teachers/ar", "prompts/train", "generations/own/1-of-2")))
    assert f"input: {judged}\n    output: {at('verdicts/own/1-of-2')}" in output
    shards = ("generations/own/0-of-2", "generations/own/1-of-2", "generations/more/0-of-1")
    origins = ", ".join(map(at, ("teachers/ar", *shards, "verdicts/own/0-of-2", "verdicts/own/1-of-2")))
    assert f"input: {origins}\n    output: {at('teachers/converted')}" in output


def add_budget(content):
    content["tables"]["table1"]["budgets"].append("b8s4")


def reverse_students(content):
    content["students"] = dict(reversed(content["students"].items()))


def add_figure(content):
    """Colours follow from the students of all figures."""
    training = content["figures"].pop("training") | {"students": ["t3d", "sft"]}
    content["figures"] = {"training": training, **content["figures"]}


PLANS = {
    "a learning rate": (
        lambda c: c["students"]["t3d"]["optimizer"].update(learning_rate=1e-5),
        {"students/t3d-seed0"} | EVALUATIONS | REPORT,
    ),
    "a budget": (
        add_budget,
        {f"{kind}/{m}/{name}/b8s4" for kind in ("answers", "scores") for m in MODELS for name in BENCHMARKS}
        | {"demo/table1.csv", "table1.csv", "demo/metrics.json"},
    ),
    "a label": (lambda c: c["students"]["t3d"].update(label="T3D, ours"), REPORT),
    "the order of students": (reverse_students, REPORT),
    "students of another figure": (add_figure, {"demo/figures/accuracy.pdf"}),
    "a batch size": (lambda c: c["benchmarks"]["gsm"].update(batch_size=3), set()),
    "more processes": (lambda c: c.update(decoding_processes=2), set()),
}


@pytest.mark.parametrize("change", PLANS)
def test_a_change_plans_what_follows_from_it_and_nothing_else(project, change):
    edit, expected = PLANS[change]
    content = twin()
    edit(content)
    write(project, content)
    assert planned(project) == expected


def test_a_model_is_loaded_once_for_budgets_that_follow_each_other(project, monkeypatch):
    original = answers.load_model

    def loaded(folder, *given):
        print(f"loaded {folder}")
        return original(folder, *given)

    # Jobs are forks of this process; what they print is in their logs.
    monkeypatch.setattr(answers, "load_model", loaded)
    content = twin()
    content["tables"]["table1"]["budgets"] = ["b8s2", "b8s4", "b8s1"]
    write(project, content)
    asked = [f"answers/t3d-seed0/gsm/{budget}" for budget in ("b8s4", "b8s1")]
    snakemake(project, *(f"data/demo/{name}.manifest.json" for name in asked), "--cores", "1")
    logs = [(project / "logs" / "demo" / f"{name}.log").read_text() for name in asked]
    assert sorted(log.count("loaded data/demo/students/t3d-seed0") for log in logs) == [0, 1]


def test_bad_parameters_stop_snakemake_with_one_message(project):
    assert "unknown experiment 'nope'" in snakemake(project, "-n", "--config", "experiment=nope", check=False)
    said = snakemake(project, "-n", "--config", "experment=demo", check=False)
    assert "--config experment: unknown; the only key is `experiment`" in said
    assert "experiment 1: it is the name of a file" in snakemake(project, "-n", "--config", "experiment=1", check=False)
    content = twin()
    content["students"]["t3d"]["stpes"] = 3
    write(project, content)
    output = snakemake(project, "-n", check=False)
    assert "students.t3d.stpes: unknown key" in output
    assert "Traceback" not in output


def test_a_student_whose_job_is_ended_leaves_its_state(project):
    """A scheduler ends every process of a job at once, `tee` as well."""
    shutil.rmtree(project / "data" / "demo" / "students")
    content = twin()
    content["students"]["sft"]["optimizer"]["steps"] = 100_000
    content["students"]["sft"]["checkpoint_every"] = 100_000
    write(project, content)
    command = [*MODULE["snakemake"], "-s", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["data/demo/students/sft-seed0.manifest.json"]
    given = {"cwd": project, "env": environment(project), "start_new_session": True}
    running = Fork(command, stdout=subprocess.DEVNULL, stderr=-1, **given)
    work, log = project / "work" / "demo" / "sft-seed0", project / "logs" / "demo" / "students" / "sft-seed0.log"
    deadline = time.monotonic() + 120
    while not (work / lineage.STEP).is_file():
        assert running.poll() is None, running.stderr.read().decode()[-3000:]
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=60)
    assert re.search(r"terminated after step \d+; run again to resume", log.read_text())
    assert list(work.glob("step-*.pt"))


def jobs_of(running: subprocess.Popen) -> list[psutil.Process]:
    """The jobs that a Snakemake runs at this moment."""
    with suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(running.pid).children(recursive=True) if child.name() == "t3d"]
    return []


def test_from_nothing_again_through_kills_the_table_is_byte_identical(project, tmp_path_factory):
    """SIGKILL of two jobs, then of Snakemake with all its jobs, and so on; on another number of shards."""
    content = twin()
    for product in (content["tables"]["table1"], content["figures"]["accuracy"]):
        product |= {"students": ["t3d"], "benchmarks": ["gsm"]}
    write(project, content)
    snakemake(project)
    content["trajectories"]["gsm"]["shards"] = 3
    again = set_up(tmp_path_factory.mktemp("again"), "demo", "")
    write(again, content)
    shutil.copy(ROOT / "params" / "reported.csv", again / "params")
    # A lock would only say, after each kill, that Snakemake ran here before. Jobs that are killed are started again.
    command = [*MODULE["snakemake"], "-s", str(ROOT / "Snakefile"), "--cores", "2", "--nolock", "--retries", "2"]
    moments = random.Random(0)
    kills = 0
    while kills < int(os.environ.get("KILLS", "6")):
        given = {"cwd": again, "env": environment(again), "start_new_session": True}
        running = Fork(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **given)
        for everything in (False, False, True):
            wait_for(lambda running=running: jobs_of(running) or running.poll() is not None, seconds=300)
            with suppress(subprocess.TimeoutExpired):
                running.wait(moments.uniform(0, 4))
            if everything and running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
                kills += 1
            elif jobs := jobs_of(running):
                with suppress(psutil.NoSuchProcess):
                    moments.choice(jobs).kill()
                    kills += 1
        if running.wait(60) != -signal.SIGKILL:
            # It was faster than we were: once more from nothing.
            shutil.rmtree(again / "data" / "demo", ignore_errors=True)
            shutil.rmtree(again / "results", ignore_errors=True)
    snakemake(again)
    # The archive is published, not made.
    made = [
        path for path in (project / "results" / "demo").rglob("*.*") if path.suffix in (".csv", ".md", ".tex", ".pdf")
    ]
    assert len(made) == 4
    for path in (*made, project / "data" / "demo" / "students" / "t3d-seed0" / "model.safetensors"):
        assert (again / path.relative_to(project)).read_bytes() == path.read_bytes(), path.name
    assert not list((again / "data").rglob("*.partial"))
