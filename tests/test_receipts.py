"""Artefacts: whole or absent, checked by digest, and tied to the parameters that made them."""

import json

import pytest

from t3d import receipts, recipes
from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError
from t3d.params import Experiment


@pytest.fixture
def experiment():
    return Experiment(
        name="x",
        teachers={"m": {"source": "pretrain", "pretraining": {}}},
        prompt_sets={"p": {"teacher": "m", "split": "test", "count": 3}},
    )


def make(experiment, tmp_path, text="content", inputs=None):
    out = tmp_path / "p.manifest.json"
    with receipts.making(experiment, "prompts/p", out, inputs=inputs) as job:
        job.file(".jsonl").write_text(text)
        job.facts["prompts"] = 3
    return receipts.read(out, kind="prompts")


def test_equal_runs_make_equal_manifests_and_receipts_tell_them_apart(experiment, tmp_path):
    first = make(experiment, tmp_path).path.read_bytes()
    again = make(experiment, tmp_path)
    assert again.path.read_bytes() == first
    assert again.file(".jsonl").read_text() == "content"
    receipt = json.loads((tmp_path / "p.receipt.json").read_text())
    assert receipt["versions"]["torch"]
    assert receipt["seconds"] >= 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_failed_job_leaves_the_finished_artefact_alone(experiment, tmp_path):
    before = make(experiment, tmp_path).path.read_bytes()

    def fails():
        with receipts.making(experiment, "prompts/p", tmp_path / "p.manifest.json") as job:
            job.file(".jsonl").write_text("half")
            raise KeyError("died")

    with pytest.raises(KeyError, match="died"):
        fails()
    assert (tmp_path / "p.jsonl").read_text() == "content"
    assert (tmp_path / "p.manifest.json").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_damage_is_named(experiment, tmp_path):
    manifest = make(experiment, tmp_path)
    with pytest.raises(MissingInputError, match=r"lists no p\.parquet: it holds p\.jsonl"):
        manifest.file(".parquet")
    (tmp_path / "p.jsonl").write_text("cOntent")
    with pytest.raises(CorruptArtefactError, match=r"p\.jsonl: the content does not match"):
        manifest.file(".jsonl")
    (tmp_path / "p.jsonl").write_text("longer content")
    with pytest.raises(CorruptArtefactError, match=r"p\.jsonl: 14 bytes"):
        manifest.file(".jsonl")
    (tmp_path / "p.jsonl").unlink()
    with pytest.raises(MissingInputError, match=r"p\.jsonl is missing"):
        manifest.file(".jsonl")
    with pytest.raises(MissingInputError, match="make it first"):
        receipts.read(tmp_path / "other.manifest.json")
    manifest.path.write_text("{}")
    with pytest.raises(CorruptArtefactError, match="is not a manifest"):
        receipts.read(manifest.path)


def test_lineage_and_edited_parameters(experiment, tmp_path):
    prompts = make(experiment, tmp_path)
    receipts.check_recipes(prompts, experiment)
    spec = experiment.prompt_sets["p"].model_copy(update={"count": 4})
    edited = experiment.model_copy(update={"prompt_sets": {"p": spec}})
    with pytest.raises(ParameterError, match="prompts/p was made with other parameters"):
        receipts.check_recipes(prompts, edited)


def test_recipes_name_what_does_not_exist(experiment):
    with pytest.raises(ParameterError, match="makes no artefact 'prompts/q'"):
        recipes.digest(experiment, "prompts/q")


def test_labels_and_batch_sizes_do_not_change_a_recipe(experiment):
    benchmark = {"label": "A", "prompts": "p", "task": "gsm_boxed", "batch_size": 8}
    other = benchmark | {"label": "B", "batch_size": 64}
    harder = benchmark | {"max_new_tokens": 9}
    digests = [
        recipes.digest(Experiment(**(experiment.model_dump() | {"benchmarks": {"b": b}})), "answers/m/b/b4s1")
        for b in (benchmark, other, harder)
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_students_recipe_has_near_steps_only_where_its_loss_has_them(experiment):
    student = {"label": "S", "trajectories": ["t"], "states": {"kind": "trajectory"}}
    student["optimizer"] = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    content = experiment.model_dump() | {
        "prompt_sets": {"p": {"teacher": "m", "split": "train", "count": 3}},
        "trajectories": {"t": {"prompts": "p", "budget": "b8s8"}},
    }

    def objective(**given):
        students = {"s": student | {"objective": given}}
        params = recipes.artefact_params(Experiment(**content | {"students": students}), "students/s-seed0")
        return params["student"]["objective"]

    assert "near_steps" not in objective(name="t3d")
    assert objective(name="near_far")["near_steps"] == 2
    assert objective(name="near_far", near_steps=3)["near_steps"] == 3


def test_how_a_student_fits_into_memory_does_not_change_its_recipe(experiment):
    sft = {"label": "SFT", "prompts": ["p"], "objective": {"name": "sft"}, "states": {"kind": "random"}}
    prompts = {"p": {"teacher": "m", "split": "train", "count": 3}}
    digests = []
    for option in ({}, {"recompute_activations": True}, {"clip": 2.0}):
        student = sft | {"optimizer": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3} | option}
        content = experiment.model_dump() | {"prompt_sets": prompts, "students": {"s": student}}
        digests.append(recipes.digest(Experiment(**content), "students/s-seed0"))
    assert digests[0] == digests[1] != digests[2]
