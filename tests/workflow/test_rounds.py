"""Rounds through the real Snakemake: a student's rollouts, scored by the teacher, teach the next student."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file

from t3d import params
from t3d.errors import DataError, ParameterError
from t3d.models.folder import load_tokenizer, mask_id
from t3d.models.sdar import load_model
from t3d.provenance import lineage, store
from t3d.trajectories import rollout, shards
from t3d.trajectories.scoring import scores
from tests.conftest import SHIPPED
from tests.started import set_up
from tests.workflow.small import snakemake

EXPERIMENT = """
device: cpu
teachers:
  pocket: {source: shipped, path: data/shipped/pocket-sdar}
prompt_sets:
  gsm: {teacher: pocket, split: train, count: 6, difficulty: {max_steps: 2, max_number: 99}}
trajectories:
  first: &rollouts {prompts: gsm, max_new_tokens: 32}
  second: {<<: *rollouts, budget: b8s4, model: t3d, scored: true}
students:
  t3d: &t3d
    label: T3D
    trajectories: first
    objective: {name: t3d}
    states: {kind: trajectory, random_tokens: 0.1}
    optimizer: {steps: 2, batch_size: 4, learning_rate: 4.0e-4}
    seeds: [0, 1, 2]
  next:
    <<: *t3d
    label: T3D, second round
    trajectories: second
    keep: 0.5
    initial: t3d
    # So small that it ends where it begins.
    optimizer: {steps: 1, batch_size: 4, learning_rate: 1.0e-12}
    seeds: [0, 1]
figures:
  training: {kind: training, caption: Training, students: [next]}
"""
SECOND = {f"trajectories/second/seed{seed}-0-of-1" for seed in (0, 1)}
RUNS = {"students/t3d-seed0", "students/t3d-seed1", "students/next-seed0", "students/next-seed1"}


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A project in which nothing has run."""
    return set_up(tmp_path_factory.mktemp("empty"), "demo", EXPERIMENT)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which both rounds have run."""
    folder = set_up(tmp_path_factory.mktemp("rounds"), "demo", EXPERIMENT)
    snakemake(folder)
    return folder


def made(project, artefact):
    return store.read(project / "data" / "demo" / f"{artefact}.manifest.json")


def weights(project, run):
    return load_file(made(project, f"students/{run}").folder() / "model.safetensors")


@pytest.mark.parametrize("rules", ["Snakefile", "workflow/models.smk"])
def test_a_dry_run_plans_the_chain(empty, rules):
    output = snakemake(empty, "-n", rules=rules)
    planned = set(re.findall(r"output: data/demo/(\S+)\.manifest\.json", output))
    assert planned == {"teachers/pocket", "prompts/gsm", "trajectories/first/0-of-1"} | SECOND | RUNS


def test_each_seed_learns_from_its_own_rollouts(project):
    for seed in (0, 1):
        student, begins = (made(project, f"students/{key}-seed{seed}") for key in ("next", "t3d"))
        name = f"trajectories/second/seed{seed}-0-of-1"
        assert set(student.inputs) == {"teachers/pocket", begins.artefact, name}
        further = {student.artefact, "prompts/gsm", "trajectories/first/0-of-1"}
        assert set(student.recipes) == set(student.inputs) | further
        assert student.facts["examples"] == 3
        shard = made(project, name)
        assert set(shard.inputs) == {"teachers/pocket", "prompts/gsm", begins.artefact}
        _, metadata = shards.read(shard.file(".parquet"))
        assert metadata.teacher == begins.digest()


def test_rollouts_have_the_teachers_scores(project):
    rollouts = [t for name in sorted(SECOND) for t in shards.read(made(project, name).file(".parquet"))[0]]
    assert len(rollouts) == 12
    mask = mask_id(load_tokenizer(SHIPPED))
    expected = scores(load_model(SHIPPED), rollouts, block_size=8, steps=4, mask_id=mask)
    assert [t.score for t in rollouts] == pytest.approx(expected, abs=1e-4)
    first, _ = shards.read(made(project, "trajectories/first/0-of-1").file(".parquet"))
    assert {t.score for t in first} == {None}


def test_training_begins_with_the_other_student(project):
    for seed in (0, 1):
        ours = weights(project, f"next-seed{seed}")
        for other in (0, 1):
            theirs = weights(project, f"t3d-seed{other}")
            near = all(torch.allclose(ours[name], theirs[name], atol=1e-8) for name in ours)
            assert near == (seed == other)
        log = made(project, f"students/next-seed{seed}").folder() / "training.jsonl"
        # The reference is what training begins with, so both agree on every token.
        assert json.loads(log.read_text())["real_term"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_first_round_again_plans_all_that_follows(project):
    content = EXPERIMENT.replace("steps: 2, batch_size: 4", "steps: 3, batch_size: 4")
    (project / "params" / "demo.yaml").write_text(content)
    try:
        output = snakemake(project, "-n")
    finally:
        (project / "params" / "demo.yaml").write_text(EXPERIMENT)
    assert set(re.findall(r"output: data/demo/(\S+)\.manifest\.json", output)) == SECOND | RUNS
    assert "Nothing to be done" in snakemake(project)


def test_rollouts_of_another_student_are_refused(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    experiment = params.find("demo")
    shard = "seed1-0-of-1"
    paths = [
        store.manifest_path(experiment, artefact)
        for artefact in lineage.inputs_of(experiment, f"trajectories/second/{shard}")
    ]
    other = store.manifest_path(experiment, "students/t3d-seed0")
    with pytest.raises(DataError, match=r"t3d-seed0; .* is made from teachers/pocket, prompts/gsm, students/t3d-seed1"):
        rollout.make(experiment, "second", shard, *paths[:2], tmp_path / "x.manifest.json", other)
    with pytest.raises(ParameterError, match=r"no shard '0-of-1'; .* seed0-0-of-1, seed1-0-of-1, seed2-"):
        rollout.make(experiment, "second", "0-of-1", *paths[:2], tmp_path / "x.manifest.json", paths[2])
