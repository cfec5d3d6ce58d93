"""The examples of docs/extending.md: YAML that an experiment takes, Python that runs."""

import re
import types

import pytest
import torch
import yaml

from t3d.distillation import objectives
from t3d.params import Experiment, students
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "extending.md").read_text()
DEMO = (ROOT / "params" / "demo.yaml").read_text()
PARTS = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))


def snippets(language, part):
    return re.findall(rf"^```{language}\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)


def merged(old, new):
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def with_all(content, text, part):
    """The experiment with every example of a part, whose aliases are those of `text`."""
    for snippet in snippets("yaml", part):
        if snippet.startswith("task:"):
            continue
        anchored = text + re.sub(r": &\w+\n", ":\n", snippet)
        # Keys that stand twice have the last value.
        whole = yaml.safe_load(anchored)
        content = merged(content, {key: whole[key] for key in yaml.safe_load(re.sub(r"<<: \*\w+", "x: 1", snippet))})
    return content


@pytest.mark.parametrize("part", [part for part in PARTS if "autoregressive" not in part])
def test_an_example_of_yaml_is_an_experiment(part):
    content = with_all(yaml.safe_load(DEMO), DEMO, PARTS[part])
    if "focal" in str(content):
        content["students"]["focal"]["objective"]["name"] = "naive_td"
    if part == "A table":
        content = with_all(content, DEMO, PARTS["A student"])
    assert Experiment.model_validate(content | {"name": "demo"})


def test_the_teacher_of_an_autoregressive_model_is_one():
    part = next(PARTS[part] for part in PARTS if "autoregressive" in part)
    made = Experiment.model_validate(with_all({"name": "mine"}, "", part))
    assert made.teachers["qwen"].source == "convert"
    assert made.generations.keys() == {"own", "written", "code"}


def test_the_loss_is_one():
    focal, options, states, name = snippets("python", PARTS["A method"])
    space = dict(vars(objectives))
    exec(focal, space)
    log_p, masked = torch.tensor([[-0.1, -2.0], [-1.0, -3.0]]), torch.tensor([[True, True], [True, False]])
    p = log_p.exp()
    plain = (1 - p) ** 2 * -log_p
    assert space["focal"](log_p, masked) == pytest.approx(float(((plain[0, 0] + plain[0, 1]) / 2 + plain[1, 0]) / 2))
    source = (ROOT / "t3d" / "params" / "students.py").read_text()
    (line,) = re.findall(r"^    name: Literal\[.*\]$", source, flags=re.MULTILINE)
    source = source.replace(line, f"    {name.strip()}").replace(
        "\n\nclass Objective", f"{options}{states}\n\nclass Objective"
    )
    changed = types.ModuleType(students.__name__)
    exec(source, vars(changed))
    assert changed.Objective(name="focal", entropy_weight=1.0).name == "focal"
    with pytest.raises(ValueError, match="focal has no beta"):
        changed.Objective(name="focal", beta=1.0)
