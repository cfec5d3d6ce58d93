"""The real Snakemake on a small twin of the demo: from nothing to the table, and what a change plans."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.conftest import ROOT
from tests.started import wait_for
from tests.workflow.small import BENCHMARKS, EVALUATIONS, MODELS, twin, write


def snakemake(project: Path, *arguments: str, experiment: str = "demo", check: bool = True):
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(project), "--cores", "2"]
    command += [*arguments, "--config", f"experiment={experiment}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project, timeout=600)
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def planned(project: Path) -> set[str]:
    """Artefacts a dry run would make, by the path of their first output below the experiment."""
    output = snakemake(project, "-n")
    paths = re.findall(r"^\s+output: (\S+?)(?:,|$)", output, flags=re.MULTILINE)
    names = {path.removesuffix(".manifest.json").removeprefix("data/demo/") for path in paths}
    return {name.removeprefix("results/") for name in names}


@pytest.fixture(scope="module")
def project(demo, tmp_path_factory):
    """A project directory, apart from the code, with the small demo that was made from nothing."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("params", "data", "results", ".snakemake"):
        shutil.copytree(demo / name, folder / name)
    return folder


@pytest.fixture
def parameters(project):
    """The twin's parameters, put back after a test has edited them."""
    yield twin()
    write(project, twin())


REPORT = {"demo/table1.csv", "table1.csv", "demo/figures/accuracy.pdf"}


def test_the_table_has_every_row(project):
    table = pd.read_csv(project / "results" / "table1.csv")
    for benchmark in BENCHMARKS:
        cells = table[table["benchmark"] == benchmark]
        assert set(cells["method"]) == {"Original", "SFT", "T3D"}
    cells = table[table["benchmark"] != "average"]
    assert set(cells["tokens_per_step"]) == {4}
    assert (cells["n"] == 6).all()
    assert (project / "results" / "demo" / "figures" / "accuracy.png").stat().st_size > 10_000
    assert (project / "results" / "demo" / "table1.tex").is_file()


def test_nothing_to_be_done(project):
    assert "Nothing to be done" in snakemake(project)


def test_snakemakes_own_report_has_captions(project, tmp_path):
    snakemake(project, "--report", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    for product in ("table1", "accuracy"):
        assert f"{product} of experiment demo" in page
    assert "Accuracy of few-step decoding" in page


def test_a_fresh_clone_has_tables_and_no_scores_and_makes_them(project, tmp_path):
    shutil.copytree(project / "params", tmp_path / "params")
    shutil.copytree(project / "results" / "demo", tmp_path / "results" / "demo")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    assert planned(tmp_path) >= {"students/sft-seed0", "students/t3d-seed0"} | EVALUATIONS | REPORT


def test_the_report_is_made_of_what_is_there_and_of_nothing_else(project):
    output = snakemake(project, "results/report.html")
    assert re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE) == ["page"]
    text = (project / "results" / "report.html").read_text()
    assert 'id="table1"' in text
    assert 'id="table2"' not in text
    assert 'id="viewer"' in text
    assert "Nothing to be done" in snakemake(project, "results/report.html")
    assert "Nothing to be done" in snakemake(project)


def test_a_table_on_request_is_made_when_it_is_asked_for(project):
    assert "table2.csv" not in {Path(path).name for path in (project / "results").iterdir()}
    output = snakemake(project, "-n", "results/table2.csv")
    # Three models, two benchmarks, two budgets at one token per step.
    assert re.search(r"^answers +12$", output, flags=re.MULTILINE)
    assert "results/demo/table2.csv" in output


def test_figures_of_other_kinds_are_drawn_when_they_are_asked_for(project):
    figures = [f"results/demo/figures/{name}.pdf" for name in ("training", "commits")]
    output = snakemake(project, "-n", figures[1])
    assert re.search(r"^answers +6$", output, flags=re.MULTILINE)
    # What it shows is there already.
    assert re.search(r"^total +1$", snakemake(project, figures[0]), flags=re.MULTILINE)
    (project / figures[0]).with_suffix(".png").unlink()
    (project / figures[0]).unlink()


@pytest.mark.parametrize("name", ["demo", "pocket"])
def test_every_table_is_one_target(name, tmp_path):
    (tmp_path / "params").symlink_to(ROOT / "params")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    tables = [f"results/table{number}.csv" for number in range(1, 10)]
    output = snakemake(tmp_path, "-n", *tables, experiment=name)
    assert all(f"results/{name}/table{number}.csv" in output for number in range(1, 10))


def test_a_conversion_waits_for_the_models_own_answers(tmp_path):
    (tmp_path / "params").symlink_to(ROOT / "params")
    output = snakemake(tmp_path, "-n", "results/table1.csv", experiment="convert")
    at = "data/convert/{}.manifest.json".format
    origins = ", ".join(map(at, ("teachers/ar", "generations/own/0-of-1")))
    assert f"input: {origins}\n    output: {at('teachers/converted')}" in output
    assert re.search(r"^teacher +2$", output, flags=re.MULTILINE)
    assert re.search(r"^generations +1$", output, flags=re.MULTILINE)


def test_a_learning_rate_plans_that_student_and_what_follows(project, parameters):
    parameters["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(project, parameters)
    assert planned(project) == {"students/t3d-seed0"} | EVALUATIONS | REPORT


def test_a_new_budget_plans_its_evaluations(project, parameters):
    parameters["tables"]["table1"]["budgets"].append("b8s4")
    write(project, parameters)
    new = {f"{kind}/{m}/{name}/b8s4" for kind in ("answers", "scores") for m in MODELS for name in BENCHMARKS}
    assert planned(project) == new | {"demo/table1.csv", "table1.csv"}


def test_a_label_plans_the_report_alone(project, parameters):
    parameters["students"]["t3d"]["label"] = "T3D, ours"
    write(project, parameters)
    assert planned(project) == REPORT


def test_a_batch_size_and_more_processes_plan_nothing(project, parameters):
    parameters["benchmarks"]["gsm"]["batch_size"] = 3
    parameters["decoding_processes"] = 2
    write(project, parameters)
    assert planned(project) == set()


def test_scores_of_other_parameters_are_an_error_not_a_table(project, parameters):
    parameters["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(project, parameters)
    scores = sorted(
        str(p.relative_to(project)) for p in (project / "data" / "demo" / "scores").rglob("*.manifest.json")
    )
    command = [sys.executable, "-m", "t3d.cli", "table", "--experiment", "demo", "--name", "table1"]
    before = (project / "results" / "demo" / "table1.csv").read_bytes()
    done = subprocess.run(
        [*command, "--out", "results/demo/table1.csv", "--scores", *scores], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "students/t3d-seed0 was made with other parameters than params/demo.yaml" in done.stderr
    assert (project / "results" / "demo" / "table1.csv").read_bytes() == before


def test_bad_parameters_stop_snakemake_with_one_message(project, parameters):
    assert "unknown experiment 'nope'" in snakemake(project, "-n", experiment="nope", check=False)
    parameters["students"]["t3d"]["stpes"] = 3
    write(project, parameters)
    output = snakemake(project, "-n", check=False)
    assert "students.t3d.stpes: unknown key" in output
    assert "Traceback" not in output


def test_a_damaged_shard_stops_training_by_name(project):
    shard = project / "data" / "demo" / "trajectories" / "gsm" / "0-of-2.parquet"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:200] + bytes([sound[200] ^ 1]) + sound[201:])
    try:
        output = snakemake(project, "--forcerun", "data/demo/students/t3d-seed0.manifest.json", check=False)
        assert "0-of-2.parquet: the content does not match the sha256" in output
        assert not (project / "data" / "demo" / "students" / "t3d-seed0.manifest.json").exists()
    finally:
        shard.write_bytes(sound)


def test_a_student_whose_job_is_ended_leaves_its_state(project, parameters, tmp_path):
    """A scheduler ends every process of a job at once, `tee` as well."""
    shutil.copytree(project / "data" / "demo", tmp_path / "data" / "demo")
    shutil.rmtree(tmp_path / "data" / "demo" / "students")
    (tmp_path / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    (tmp_path / "params").mkdir()
    content = parameters
    content["students"]["sft"]["optimizer"]["steps"] = 100_000
    content["students"]["sft"]["checkpoint_every"] = 100_000
    write(tmp_path, content)
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(tmp_path), "--cores", "1"]
    command += ["data/demo/students/sft-seed0.manifest.json", "--config", "experiment=demo"]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=-1, start_new_session=True)
    log = tmp_path / "logs" / "demo" / "students" / "sft-seed0.log"
    deadline = time.monotonic() + 120
    while not (log.is_file() and "distill sft-seed0: " in log.read_text()):
        assert running.poll() is None, running.stderr.read().decode()[-3000:]
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.5)
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate(timeout=60)
    assert re.search(r"terminated after step \d+; run again to resume", log.read_text())
    assert list((tmp_path / "work" / "demo" / "sft-seed0").glob("step-*.pt"))


def jobs_of(running: psutil.Popen) -> list[psutil.Process]:
    """The jobs that a Snakemake runs at this moment."""
    with suppress(psutil.NoSuchProcess):
        return [child for child in running.children(recursive=True) if child.name() == "t3d"]
    return []


def test_from_nothing_again_through_twenty_kills_the_table_is_byte_identical(project, parameters, tmp_path):
    """SIGKILL of two jobs, then of Snakemake with all its jobs, and so on; on another number of shards."""
    for product in (parameters["tables"]["table1"], parameters["figures"]["accuracy"]):
        product |= {"students": ["t3d"], "benchmarks": ["gsm"]}
    write(project, parameters)
    # Of scores that are there.
    assert planned(project) == REPORT
    snakemake(project)
    (tmp_path / "params").mkdir()
    shutil.copy(ROOT / "params" / "reported.csv", tmp_path / "params")
    parameters["trajectories"]["gsm"]["shards"] = 3
    write(tmp_path, parameters)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
    # A lock would only say, after each kill, that Snakemake ran here before. Jobs that are killed are started again.
    command += ["--nolock", "--retries", "2", "--config", "experiment=demo"]
    moments = random.Random(0)
    kills = 0
    while kills < 20:
        running = psutil.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for everything in (False, False, True):
            wait_for(lambda running=running: jobs_of(running) or running.poll() is not None, seconds=300)
            with suppress(psutil.TimeoutExpired):
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
            shutil.rmtree(tmp_path / "data" / "demo", ignore_errors=True)
            shutil.rmtree(tmp_path / "results", ignore_errors=True)
    snakemake(tmp_path)
    # The archive is published, not made.
    made = [
        path for path in (project / "results" / "demo").rglob("*.*") if path.suffix in (".csv", ".md", ".tex", ".pdf")
    ]
    assert len(made) == 4
    for path in (*made, project / "data" / "demo" / "students" / "t3d-seed0" / "model.safetensors"):
        assert (tmp_path / path.relative_to(project)).read_bytes() == path.read_bytes(), path.name
    assert not list((tmp_path / "data").rglob("*.partial"))
