"""Parameters: what is refused, what the message says, and the generated schema."""

import copy
from pathlib import Path

import pytest
import yaml

from t3d import params
from t3d.errors import ParameterError
from t3d.params import ExampleOptions
from t3d.provenance import lineage
from tests.conftest import ROOT

DEMO = yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())
REFUSED = yaml.safe_load((Path(__file__).parent / "refused.yaml").read_text())


def edited(tmp_path, edit):
    content = copy.deepcopy(DEMO)
    edit(content)
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.dump(content, Dumper=yaml.CSafeDumper))
    return path


def test_the_schema_is_up_to_date():
    """If this fails: python -m t3d.params > params/schema.json"""
    assert (ROOT / "params" / "schema.json").read_text() == params.schema()


@pytest.mark.parametrize("path", sorted(Path(ROOT / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_valid(path):
    assert params.load(path).name == path.stem


def additions(content):
    """What some changes need: an autoregressive model, its conversion, and rounds: `next` learns from `t3d`."""
    learner = {"label": "Next", "trajectories": "again", "initial": "t3d", "keep": 0.5}
    again = {"prompts": "gsm-train", "model": "t3d", "scored": True}
    ar = {"source": "pretrain", "attention": "causal", "label": "AR (vLLM)", "pretraining": {}}
    asked = content["prompt_sets"]["gsm-train"] | {"teacher": "ar"}
    openings = {"teacher": "ar", "split": "train", "domain": "openings", "openings": ["Say why"]}
    conversion = {
        "teachers/ar": ar,
        "teachers/sdar": {"source": "convert", "initial": "ar", "generations": "own", "label": "Converted"},
        "prompt_sets/asked": asked,
        "prompt_sets/openings": openings,
        "generations": {"own": {"prompts": "asked"}, "tasks": {"prompts": "openings"}},
    }
    return {
        "autoregressive": {"teachers/ar": ar},
        "conversion": conversion,
        "rounds": {"trajectories/again": again, "students/next": content["students"]["t3d"] | learner},
    }


def change(content, path, value):
    *above, key = path.split("/")
    for each in above:
        content = content[each]
    if key == "+":
        content.append(value)
    elif value == "REMOVED":
        del content[key]
    else:
        content[key] = value


def found_at(content, path):
    for each in path.split("/"):
        content = content[each]
    return copy.deepcopy(content)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["message"])
def test_bad_values_give_file_field_and_remedy(tmp_path, case):
    def edit(content):
        changes = additions(content).get(case.get("in"), {}) | case["change"]
        for path, value in changes.items():
            same = isinstance(value, str) and value.startswith("SAME ")
            change(content, path, found_at(content, value.removeprefix("SAME ")) if same else value)

    path = edited(tmp_path, edit)
    with pytest.raises(ParameterError, match=case["message"]) as error:
        params.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            "tables.table1.budgets",
            ["b8s16"],
            "budgets.0: budget 'b8s16': 16 steps for a block of 8 tokens: a step commits",
        ),
        ("tables.table1.budgets", [], "budgets: it has 0 entries, at least 1 is needed. Found: []."),
        (
            "tables.table1.teacher",
            "A_B",
            "teacher: a name has small letters, digits, `.`, `_` and `-`, and begins with a",
        ),
        ("tables.table1.caption", 2026, "caption: a text is expected; write it in quotes. Found: 2026."),
        ("teachers.Own Model", DEMO["teachers"]["pocket-sdar"], "teachers.Own Model: a name has small letters"),
        ("sources.own", {"repository": "own"}, "sources.own.repository: a repository is written owner/name."),
        (
            "sources.own",
            {"repository": "me/own", "files": {"test.jsonl": "abc"}},
            "sources.own.files.test.jsonl: a sha256 is 64 hex digits",
        ),
    ],
)
def test_a_fault_is_said_once_and_in_words(tmp_path, place, value, said):
    def edit(content):
        *way, last = place.split(".")
        for key in way:
            content = content.setdefault(key, {})
        content[last] = value

    with pytest.raises(ParameterError) as error:
        params.load(edited(tmp_path, edit))
    # An anchor of the file gives other tables the same value.
    of_fault = [line for line in str(error.value).splitlines()[1:] if f"  {place.partition('.')[0]}." in line]
    assert len(of_fault) == 1, error.value
    assert said in of_fault[0]
    assert "match pattern" not in of_fault[0]


def test_unknown_experiment_lists_those_that_exist(tmp_path):
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(ParameterError, match=r"unknown experiment 'b'.*Experiments there: a"):
        params.load(tmp_path / "b.yaml")
    with pytest.raises(ParameterError, match="expected a mapping"):
        params.load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ParameterError, match="not valid YAML"):
        params.load(tmp_path / "a.yaml")


def test_a_row_of_several_models_follows_its_columns_and_not_the_order_of_the_file(tmp_path):
    def edit(content):
        content["tables"]["table1"]["rows"] = [{"label": "Both", "model": {"code": "sft", "gsm": "redi"}}]

    made = params.load(edited(tmp_path, edit))
    (row,) = (row for row in lineage.rows_of(made, made.tables["table1"]) if row.label == "Both")
    assert list(row.models.items()) == [("gsm", "redi"), ("code", "sft")]
    assert row.model == "redi"


def with_recipe(tmp_path, recipe, student="t3d"):
    def edit(content):
        content["students"][student]["recipe"] = recipe
        content["students"][student]["states"] = {"kind": content["students"][student]["states"]["kind"]}
        content["students"][student]["objective"] = {"name": content["students"][student]["objective"]["name"]}

    return params.load(edited(tmp_path, edit)).students[student]


def test_a_recipe_is_a_bundle_of_switches(tmp_path):
    ours, paper, released = (with_recipe(tmp_path, recipe) for recipe in ("ours", "paper", "released"))
    assert (ours.objective.alpha, ours.objective.beta, ours.objective.path_weight) == (0.5, 0.1, 0.2)
    assert ours.rows == ExampleOptions()
    assert (paper.objective.alpha, paper.objective.beta, paper.objective.log_probability) == (1.0, 1.0, "sum")
    assert paper.states.random_tokens == 0.1
    assert (released.objective.fake, released.objective.path_weights) == ("argmax", "released")
    assert (released.states.mask_order, released.states.redraw) == ("reversed", "never")
    assert released.rows == ExampleOptions(
        block_grid="response", terminal_block="cut", prompt="bare", rollout_blocks="any"
    )


def test_a_recipe_leaves_out_what_an_objective_does_not_have(tmp_path):
    redi = with_recipe(tmp_path, "released", "redi")
    assert redi.states.redraw == "never"
    assert redi.states.random_tokens == 0.0
    assert redi.rows.block_grid == "response"
    assert with_recipe(tmp_path, "released", "sft").rows == ExampleOptions()


def test_what_is_given_goes_before_the_recipe(tmp_path):
    def edit(content):
        content["students"]["t3d"] |= {"recipe": "released", "rows": {"prompt": "recorded"}}
        content["students"]["t3d"]["states"]["random_tokens"] = 0.3

    student = params.load(edited(tmp_path, edit)).students["t3d"]
    assert student.states.random_tokens == 0.3
    assert student.rows.prompt == "recorded"
    assert student.rows.terminal_block == "cut"


def test_a_fault_under_a_yaml_anchor_is_said_once(tmp_path):
    """With its first place and how many more there are; a fault of another key, or with another value, stands apart."""
    path = tmp_path / "edited.yaml"
    text = (ROOT / "params" / "demo.yaml").read_text()
    path.write_text(text.replace("warmup_steps: 4}", "warmup_steps: -1, clip: 0}"))
    with pytest.raises(ParameterError) as refused:
        params.load(path)
    assert str(refused.value).splitlines()[1:] == [
        "  students.sft.optimizer.warmup_steps: Input should be greater than or equal to 0. Found: -1. "
        "students.redi.optimizer.warmup_steps and 19 more have the same fault.",
        "  students.sft.optimizer.clip: Input should be greater than 0. Found: 0. "
        "students.redi.optimizer.clip and 19 more have the same fault.",
    ]


def test_a_fault_between_parts_of_the_file_begins_with_its_place(tmp_path):
    path = edited(tmp_path, lambda content: change(content, "prompt_sets/gsm-train/teacher", "nobody"))
    with pytest.raises(ParameterError) as refused:
        params.load(path)
    assert str(refused.value).splitlines()[1].startswith("  prompt_sets.gsm-train.teacher names 'nobody'")
