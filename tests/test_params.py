"""Parameters: what is refused, what the message says, and the generated schema."""

from pathlib import Path

import pytest
import yaml

from t3d import params
from t3d.errors import ParameterError
from t3d.params import Budget, States
from tests.conftest import ROOT

DEMO = ROOT / "params" / "demo.yaml"


def edited(tmp_path, edit):
    content = yaml.safe_load(DEMO.read_text())
    edit(content)
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_schema_is_up_to_date():
    """If this fails: python -m t3d.params > params/schema.json"""
    assert (ROOT / "params" / "schema.json").read_text() == params.schema()


@pytest.mark.parametrize("path", sorted(Path(ROOT / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_valid(path):
    assert params.load(path).name == path.stem


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(colour="red"), "colour: unknown key. Allowed here: name, seed"),
        (
            lambda c: c["students"]["t3d"]["optimizer"].update(lr=1),
            "students.t3d.optimizer.lr: unknown key. Allowed here: steps, batch_size",
        ),
        (
            lambda c: c["students"]["t3d"]["optimizer"].update(steps="many"),
            r"students.t3d.optimizer.steps: .*integer.* Found: 'many'",
        ),
        (lambda c: c["students"]["t3d"]["objective"].update(alpha=-1), "objective.alpha: .*greater than or equal to 0"),
        (lambda c: c["students"]["t3d"].update(prompts="gsm-train"), "learns from `trajectories`, not from `prompts`"),
        (lambda c: c["students"]["sft"]["states"].update(kind="trajectory"), "is defined on random states"),
        (
            lambda c: c["trajectories"]["gsm"].update(prompts="gsm-tset"),
            "names 'gsm-tset', which is not among prompt_sets",
        ),
        (lambda c: c["trajectories"]["gsm"].update(prompts="gsm-test"), "only prompts of split train"),
        (
            lambda c: c["trajectories"]["gsm"].update(budget="8x8"),
            "trajectories.gsm.budget: budget '8x8' is not of the form",
        ),
        (lambda c: c["tables"]["table1"]["budgets"].append("b8t0.9"), "b8t0.9 is dynamic"),
        (lambda c: c["tables"]["table1"]["budgets"].append("b8s1"), "tables.table1.budgets: a budget is listed twice"),
        (lambda c: c["benchmarks"].update(average=c["benchmarks"]["gsm"]), "benchmarks.average: the tables use this"),
        (lambda c: c["students"]["t3d"]["optimizer"].update(micro_batch_size=5), "micro_batch_size 5 does not divide"),
        (lambda c: c["teachers"]["pocket-sdar"].pop("path"), "a teacher with source: shipped needs `path`"),
        (lambda c: c.update(name="x"), "`name` follows from the file's name"),
    ],
)
def test_bad_values_give_file_field_and_remedy(tmp_path, edit, message):
    path = edited(tmp_path, edit)
    with pytest.raises(ParameterError, match=message) as error:
        params.load(path)
    assert str(path) in str(error.value)


def test_unknown_experiment_lists_those_that_exist(tmp_path):
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(ParameterError, match=r"unknown experiment 'b'.*Experiments there: a"):
        params.load(tmp_path / "b.yaml")
    with pytest.raises(ParameterError, match="expected a mapping"):
        params.load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ParameterError, match="not valid YAML"):
        params.load(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["b4s1", "b8s8", "b4t0.9", "b16t0.05"])
def test_budgets_are_written_as_they_are_read(text):
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize("text", ["b4", "s4b4", "b4s0", "b4s5", "b0s0", "b4t1.5", "b4t0", ""])
def test_bad_budgets(text):
    with pytest.raises(ValueError, match=r".+"):
        Budget.parse(text)


def test_tokens_per_step():
    assert Budget.parse("b8s2").tokens_per_step == 4
    assert Budget.parse("b8t0.9").tokens_per_step is None


def test_mask_ratios_must_be_a_distribution():
    with pytest.raises(ValueError, match=r"sum to 0\.9, not 1"):
        States(kind="trajectory", mask_ratios={1.0: 0.9})
    levels = States(kind="trajectory").level_distribution()
    assert sum(levels.values()) == pytest.approx(1)
    assert levels[1.0] == pytest.approx(0.906, abs=5e-4)
    assert levels[0.75] == pytest.approx(0.091, abs=5e-4)
