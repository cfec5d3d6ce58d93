"""Experiments that convert an autoregressive model: what is refused, what a recipe holds, what the docs show."""

import re

import pytest
import yaml

from t3d import params
from t3d.errors import ParameterError
from t3d.provenance import lineage, recipes
from t3d.terminal import cost
from tests.autoregressive import experiment_file, write_causal
from tests.conftest import ROOT


def test_what_speed_alone_depends_on_is_not_in_its_recipe(tmp_path):
    write_causal(tmp_path / "published")
    experiment = experiment_file(tmp_path, tmp_path / "published")
    spec = yaml.safe_load((tmp_path / "converted.yaml").read_text())["teachers"]

    def digest(**changes):
        conversion = spec["sdar"]["conversion"] | changes
        teachers = spec | {"sdar": spec["sdar"] | {"conversion": conversion}}
        return recipes.digest(experiment_file(tmp_path, tmp_path / "published", teachers=teachers), "teachers/sdar")

    same = recipes.digest(experiment, "teachers/sdar")
    assert digest(checkpoint_every=7) == digest(recompute_activations=True) == same
    assert digest(learning_rate=1e-3) != same
    # Defaults that are given are the defaults.
    plain = spec | {"sdar": {"source": "convert", "initial": "ar", "generations": ["own"]}}
    given = spec | {"sdar": plain["sdar"] | {"conversion": {"block_sizes": [4, 8]}}}
    found = {
        recipes.digest(experiment_file(tmp_path, tmp_path / "published", teachers=each), "teachers/sdar")
        for each in (plain, given)
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial": "sdar"}, "teachers.sdar.initial: sdar has no `attention: causal`"),
        ({"initial": None}, "a teacher with source: convert needs `initial`"),
        ({"generations": "others"}, "names 'others', which is not among generations: own"),
        ({"attention": "causal"}, "a converted teacher is a block-diffusion LM"),
        ({"source": "hub", "hub": "qwen"}, "initial describes a teacher with source: convert, not hub"),
        ({"conversion": {"block_sizes": []}}, "block_sizes"),
    ],
)
def test_what_does_not_fit_is_said_when_parameters_are_read(tmp_path, changes, message):
    write_causal(tmp_path / "published")
    experiment_file(tmp_path, tmp_path / "published")
    content = yaml.safe_load((tmp_path / "converted.yaml").read_text())
    content["teachers"]["sdar"] |= changes
    (tmp_path / "converted.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ParameterError, match=message):
        params.load(tmp_path / "converted.yaml")


def test_only_diffusion_teachers_ask_benchmarks_and_decode_trajectories(tmp_path):
    model = write_causal(tmp_path / "published")
    with pytest.raises(
        ParameterError, match=r"trajectories.r.prompts: prompt_sets.train.teacher: ar is autoregressive"
    ):
        experiment_file(tmp_path, model, trajectories={"r": {"prompts": "train"}})
    with pytest.raises(ParameterError, match=r"generations.own.prompts: sdar, the teacher of again, has no"):
        experiment_file(tmp_path, model, generations={"own": {"prompts": "again"}})


def test_the_experiment_of_the_docs_can_be_read(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page[page.index("## Your own autoregressive model") : page.index("## After a change of code")]
    whole, more = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    for group, entries in more.items():
        whole[group] |= entries
    whole["teachers"]["qwen"]["generations"] = ["own", "code"]
    (tmp_path / "docs.yaml").write_text(yaml.safe_dump(whole))
    experiment = params.load(tmp_path / "docs.yaml")
    assert "generations/code/0-of-1" in lineage.inputs_of(experiment, "teachers/qwen")
    assert "generations/written/0-of-1" in lineage.inputs_of(experiment, "prompts/tasks")


def test_the_cost_of_both_stages_is_stated(tmp_path):
    experiment = experiment_file(tmp_path, write_causal(tmp_path / "published"))
    for artefact in ("generations/own/0-of-2", "teachers/sdar"):
        found = cost.of_artefact(experiment, artefact, "H200")
        assert found.seconds > 0
        assert found.arithmetic != "no GPU"
    assert cost.of_artefact(experiment, "teachers/ar").seconds == 0
