"""Whoever changes code says whether results change with it."""

import shutil

import pytest
import yaml

from t3d import recipes
from t3d.errors import ParameterError
from t3d.versions import code


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package that may be edited."""
    shutil.copytree(code.PACKAGE, tmp_path / "t3d")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "t3d")
    code.digest.cache_clear()
    yield tmp_path / "t3d"
    code.digest.cache_clear()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code.digest.cache_clear()


def test_the_recorded_code_is_the_code_that_is_there():
    """If this fails: run `t3d recipe keep <stage>` or `t3d recipe bump <stage>`; the first where results are equal."""
    assert code.changed() == []


def test_comments_docstrings_and_layout_are_no_code(copied):
    edit(copied / "distillation" / "objectives.py", '    """Total (10)', '    # Both terms.\n    """The total (10)')
    edit(copied / "distillation" / "objectives.py", "real + alpha * fake", "(real + alpha\n        * fake)")
    assert code.changed() == []


def test_a_changed_loss_is_code_of_students_alone(copied):
    edit(copied / "distillation" / "objectives.py", "real + alpha * fake", "real - alpha * fake")
    assert code.changed() == ["students"]


def test_a_changed_decoder_concerns_what_decodes(copied):
    edit(copied / "decoding" / "decoder.py", "import", "import math\nimport")
    assert set(code.changed()) >= {"trajectories", "answers"}
    assert not {"prompts", "students"} & set(code.changed())


def test_a_changed_task_concerns_evaluation(copied):
    edit(copied / "evaluation" / "tasks" / "gsm_boxed.yaml", "num_fewshot: 0", "num_fewshot: 1")
    assert set(code.changed()) == {"answers", "scores", "factorisation"}


def test_keep_leaves_the_number_and_bump_raises_it(copied, tmp_path):
    numbers = tmp_path / "recipes.yaml"
    shutil.copy(recipes.RECIPES, numbers)
    before = yaml.safe_load(numbers.read_text())
    edit(copied / "distillation" / "objectives.py", "real + alpha * fake", "real - alpha * fake")
    code.record("students", bump=False, numbers=numbers)
    kept = yaml.safe_load(numbers.read_text())
    assert kept["students"]["recipe"] == before["students"]["recipe"]
    assert kept["students"]["code"] != before["students"]["code"]
    assert code.changed(numbers) == []
    code.record("students", bump=True, numbers=numbers)
    bumped = yaml.safe_load(numbers.read_text())
    assert bumped.pop("students")["recipe"] == before.pop("students")["recipe"] + 1
    assert bumped == before
    assert numbers.read_text().startswith("# What a stage makes")


def test_an_unknown_stage_is_named():
    with pytest.raises(ParameterError, match="no stage 'student': sources, teachers, prompts"):
        code.record("student", bump=False)
