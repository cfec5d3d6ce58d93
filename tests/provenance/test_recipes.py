"""What an artefact's recipe is made of: what changes it, and what does not."""

import pytest

from t3d.errors import ParameterError
from t3d.params import Experiment
from t3d.provenance import recipes


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


def test_another_mask_token_is_another_teacher(experiment):
    digests = []
    for option in ({}, {"mask_token": "<a>"}, {"mask_token": "<b>"}):
        content = experiment.model_dump() | {"sources": {"s": {"repository": "me/m", "kind": "model"}}}
        content["teachers"] = content["teachers"] | {"n": {"source": "hub", "hub": "s"} | option}
        digests.append(recipes.digest(Experiment(**content), "teachers/n"))
    assert len(set(digests)) == 3


def test_how_a_student_fits_into_memory_does_not_change_its_recipe(experiment):
    sft = {"label": "SFT", "prompts": ["p"], "objective": {"name": "sft"}, "states": {"kind": "random"}}
    prompts = {"p": {"teacher": "m", "split": "train", "count": 3}}
    digests = []
    for option in ({}, {"recompute_activations": True}, {"clip": 2.0}):
        student = sft | {"optimizer": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3} | option}
        content = experiment.model_dump() | {"prompt_sets": prompts, "students": {"s": student}}
        digests.append(recipes.digest(Experiment(**content), "students/s-seed0"))
    assert digests[0] == digests[1] != digests[2]
