"""What the profiles of `workflow/profiles/` decide, without a cluster: `tests/slurm/` has one."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.started import set_up
from tests.workflow.small import BENCHMARKS, MODELS, STUDENTS, snakemake, twin, write

GPU_JOBS = """
rule all:
    input: "first", "second"

rule gpu_job:
    output: "{name}"
    resources: gpu=2
    shell: "date +%s.%N > {output}; sleep 1; date +%s.%N >> {output}"
"""


def test_jobs_that_need_a_gpu_take_turns_on_one_machine(tmp_path):
    (tmp_path / "Snakefile").write_text(GPU_JOBS)
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    snakemake(tmp_path)
    first, second = sorted(
        [float(line) for line in (tmp_path / name).read_text().split()] for name in ("first", "second")
    )
    assert second[0] >= first[1]


def test_a_dry_run_for_a_cluster_needs_no_cluster(tmp_path):
    write(set_up(tmp_path, "demo", ""), twin() | {"gpus": 1, "decoding_processes": 8})
    (tmp_path / "params" / "reported.csv").symlink_to(ROOT / "params" / "reported.csv")
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    said = snakemake(tmp_path, "-n", "results/table1.csv", "--profile", "slurm", "--config", "experiment=demo")
    # A local run's limit of one does not cut what a job asks for: a GPU per process, 8 of them decode and one trains.
    asked = Counter(re.findall(r" gpu=(\d+)", said))
    assert asked["8"] == len(BENCHMARKS) + 1 + len(MODELS) * len(BENCHMARKS)
    assert asked["1"] == len(STUDENTS)
    assert "runtime=20" in said


def test_what_would_stop_a_job_is_said_when_it_is_planned_and_stops_the_run(tmp_path):
    set_up(tmp_path, "demo", "")
    shutil.copy(ROOT / "params" / "paper.yaml", tmp_path / "params" / "paper.yaml")
    (tmp_path / "params" / "reported.csv").symlink_to(ROOT / "params" / "reported.csv")
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    said = snakemake(tmp_path, "-n", "results/table1.csv", "--profile", "slurm")
    assert "Before the first job:\npins: params/paper.yaml: sources" in said
    assert "answers" in said
    said = snakemake(tmp_path, "results/table1.csv", "--config", "experiment=paper", check=False)
    assert "A job would fail for this:" in said
    assert "`t3d pin --experiment paper` prints what to paste there" in said
    assert not (tmp_path / "data" / "paper").exists()


def test_local_files_that_are_missing_stop_the_run_that_needs_them_and_no_report(tmp_path):
    set_up(tmp_path, "demo", "")
    shutil.copy(ROOT / "params" / "qwen.yaml", tmp_path / "params" / "qwen.yaml")
    (tmp_path / "params" / "reported.csv").symlink_to(ROOT / "params" / "reported.csv")
    asked = ["results/table1.csv", "--config", "experiment=qwen"]
    missing = "pins: params/qwen.yaml, sources.coder.local: local/coder/model.gguf is missing; there is no such folder."
    said = snakemake(tmp_path, "-n", *asked)
    assert f"Before the first job:\n{missing}" in said
    said = snakemake(tmp_path, *asked, check=False)
    assert "A job would fail for this:" in said
    assert missing in said
    assert not (tmp_path / "data" / "qwen").exists()
    # What is made from scores reads none of these files.
    said = snakemake(tmp_path, "-n", *asked, rules="workflow/report.smk", check=False)
    assert "pins:" not in said
    assert "local/" not in said


def test_rules_submitted_as_arrays_exist():
    profile = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text())
    rules = snakemake(ROOT, "--list-rules").split()
    # A name that is no rule's would be ignored.
    assert {rule.strip() for rule in profile["slurm-array-jobs"].split(",")} <= set(rules)


def test_the_experiment_is_the_only_config_key_of_the_profile():
    # `--config` replaces the list whole: another key would be lost with it.
    profile = yaml.safe_load((ROOT / "slurm" / "config.yaml").read_text())
    assert profile["config"] == ["experiment=paper"]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("", False),
        ("Job 3 has been submitted with SLURM jobid 12 (log: x).\n", True),
        ("Submitted array job with Snakemake IDs 3,4 and SLURM job ID 12. The individual task IDs are 1-2.\n", True),
    ],
)
@pytest.mark.parametrize("scancel", ["echo no controller >&2; exit 1", None])
def test_jobs_that_were_never_submitted_are_not_said_to_be_left(tmp_path, monkeypatch, capsys, line, left, scancel):
    rules = {"Path": Path}
    exec((ROOT / "workflow" / "rules" / "slurm.smk").read_text(), rules)
    log = tmp_path / "log"
    log.write_text(f"SLURM run ID: 74a48392\n{line}")
    monkeypatch.setenv("PATH", str(tmp_path))
    if scancel is not None:
        (tmp_path / "scancel").write_text(f"#!/bin/sh\n{scancel}\n")
        (tmp_path / "scancel").chmod(0o755)
    rules["cancel_jobs"]([str(log)])
    said = capsys.readouterr().out
    assert ("Jobs may be left in the queue" in said) == left
    assert ("Cancel them: scancel --name=74a48392" in said) == left
