"""Experiments that convert an autoregressive model: what is refused, what a recipe holds, what the docs show."""

import re

import yaml

from t3d import params
from t3d.provenance import lineage, recipes
from t3d.terminal import cost
from tests.autoregressive import content_of, experiment_file, experiment_of, write_causal
from tests.conftest import ROOT


def test_what_speed_alone_depends_on_is_not_in_its_recipe(tmp_path):
    content = content_of(tmp_path, write_causal(tmp_path / "published"))
    conversion = content["teachers"]["sdar"].pop("conversion")

    def digest(**conversion):
        sdar = content["teachers"]["sdar"] | ({"conversion": conversion} if conversion else {})
        changed = content | {"teachers": content["teachers"] | {"sdar": sdar}}
        return recipes.digest(experiment_of(tmp_path, changed), "teachers/sdar")

    same = digest(**conversion)
    assert digest(**conversion, checkpoint_every=7) == digest(**conversion, recompute_activations=True) == same
    assert digest(**(conversion | {"learning_rate": 1e-3})) != same
    # Defaults that are given are the defaults.
    assert digest() == digest(block_sizes=[4, 8])


def test_how_answers_are_judged_is_in_the_recipe_of_verdicts_alone(tmp_path):
    content = content_of(tmp_path, write_causal(tmp_path / "published"))

    def digests(task, keep):
        content["generations"]["own"]["task"] = task
        content["teachers"]["sdar"]["conversion"]["keep"] = keep
        names = ("generations/own/0-of-2", "verdicts/own/0-of-2", "teachers/sdar")
        return [recipes.digest(experiment_of(tmp_path, content), name) for name in names]

    plain, (answers, *_), (same, verdicts, _) = (
        digests(None, None),
        digests("gsm_boxed", None),
        digests("math_boxed", None),
    )
    assert answers == same == plain[0]
    assert digests("math_boxed", "right")[:2] == [answers, verdicts]
    assert digests("gsm_boxed", "right")[1] != verdicts
    assert digests("math_boxed", "right")[2] != plain[2]


def test_the_experiment_of_the_docs_can_be_read(tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page[page.index("## Your own autoregressive model") : page.index("## After a change of code")]
    whole, *others = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    for group, entries in (item for more in others for item in more.items()):
        whole[group] |= entries
    whole["teachers"]["qwen"]["generations"] = ["own", "code"]
    (tmp_path / "docs.yaml").write_text(yaml.safe_dump(whole))
    experiment = params.load(tmp_path / "docs.yaml")
    assert {"generations/code/0-of-1", "verdicts/own/0-of-1"} <= {*lineage.inputs_of(experiment, "teachers/qwen")}
    assert "generations/written/0-of-1" in lineage.inputs_of(experiment, "prompts/tasks")
    # The converted model may be asked the same tasks.
    whole["prompt_sets"]["asked"] = whole["prompt_sets"]["tasks"] | {"teacher": "qwen"}
    (tmp_path / "docs.yaml").write_text(yaml.safe_dump(whole))
    needed = lineage.inputs_of(params.load(tmp_path / "docs.yaml"), "prompts/asked")
    assert {"teachers/qwen", "generations/written/0-of-1"} <= {*needed}


def test_the_cost_of_both_stages_is_stated(tmp_path):
    experiment = experiment_file(tmp_path, write_causal(tmp_path / "published"))
    for artefact in ("generations/own/0-of-2", "teachers/sdar"):
        found = cost.of_artefact(experiment, artefact, "H200")
        assert found.seconds > 0
        assert found.arithmetic != "no GPU"
    assert cost.of_artefact(experiment, "teachers/ar").seconds == 0
