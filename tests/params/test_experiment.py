"""Parameters: what is refused, what the message says, and the generated schema."""

from pathlib import Path

import pytest
import yaml

from t3d import params
from t3d.errors import ParameterError
from t3d.params import ExampleOptions, States
from t3d.provenance import lineage
from tests.conftest import ROOT

DEMO = ROOT / "params" / "demo.yaml"


def questions(content, name):
    """Make a prompt set one of a file that has questions and nothing else."""
    content["sources"] = {"file": {"repository": "owner/file"}}
    spec = {"teacher": "pocket-sdar", "domain": "questions", "source": "file", "columns": {"question": "q"}}
    content["prompt_sets"][name] = spec | {"split": content["prompt_sets"][name]["split"]}


def with_ar(content, label="AR (vLLM)"):
    """The content with an autoregressive model, `ar`."""
    content["teachers"]["ar"] = {"source": "pretrain", "attention": "causal", "label": label, "pretraining": {}}
    return content


def rounds(content, **links):
    """The content with rounds: `t3d` decodes `again`, from which `next` learns, and `links` (a.b.c -> value)."""
    content["trajectories"]["again"] = {"prompts": "gsm-train", "model": "t3d", "scored": True}
    content["students"]["next"] = content["students"]["t3d"] | {"label": "Next", "trajectories": "again"}
    content["students"]["next"] |= {"initial": "t3d", "keep": 0.5}
    for field, value in links.items():
        kind, key, name = field.split("__")
        content[kind][key.replace("_", "-")] = content[kind][key.replace("_", "-")] | {name: value}


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
            lambda c: c["students"]["sft"]["objective"].update(alpha=1),
            "objective sft has no alpha; its options: log_prob",
        ),
        (lambda c: c["students"]["sft"].update(rows={"terminal_block": "cut"}), "sft learns from gold answers"),
        (lambda c: c["students"]["redi"]["states"].update(mask_ratios="uniform"), "mask_ratios describes trajectory"),
        (lambda c: c["students"]["redi"]["states"].update(threshold=0.9), "threshold describes trajectory states"),
        (
            lambda c: c["students"]["t3d"]["states"].update(threshold=0.9, mask_ratios="uniform"),
            "mask_ratios and mask_order have no meaning beside it",
        ),
        (
            lambda c: (
                c["students"]["t3d"].update(states={"kind": "trajectory", "threshold": 0.9}),
                c["trajectories"]["gsm"].update(budget="b8s4"),
                c["trajectories"]["code"].update(budget="b8s4"),
            ),
            "students.t3d.states.threshold: trajectories.gsm was not decoded one token a step",
        ),
        (
            lambda c: c["students"]["t3d"]["objective"].update(entropy_temperature=0.5),
            "entropy_temperature has no meaning without an entropy_weight",
        ),
        (lambda c: c["students"]["t3d"]["states"].update(complement=True), "a complement is taken of random states"),
        (lambda c: c["students"]["t3d"]["states"].update(mask_ratios={0.5: 0.7}), "sum to 0.7, not 1"),
        (
            lambda c: c["students"]["t3d"].update(recipe="theirs"),
            "students.t3d.recipe: .*'ours', 'paper' or 'released'",
        ),
        (
            lambda c: c["students"]["t3d"].update(recipe=["ours"]),
            "students.t3d.recipe: .*'ours', 'paper' or 'released'",
        ),
        (lambda c: c["students"]["t3d"]["objective"].update(name=[1]), "students.t3d.objective.name: Input should be"),
        (lambda c: c["students"]["t3d"].update(objective=7), "students.t3d.objective: Input should be"),
        (
            lambda c: c["trajectories"]["gsm"].update(prompts="gsm-tset"),
            "names 'gsm-tset', which is not among prompt_sets",
        ),
        (lambda c: c["trajectories"]["gsm"].update(prompts="gsm-test"), "only prompts of split train"),
        (
            lambda c: c["trajectories"]["gsm"].update(budget="8x8"),
            "trajectories.gsm.budget: budget '8x8' is not of the form",
        ),
        (
            lambda c: c["tables"]["table1"]["budgets"].append("b8s1"),
            "tables.table1: a budget is listed twice",
        ),
        (lambda c: c["tables"]["table1"].update(base="sgt"), "tables.table1: base: 'sgt' is not a row of this table"),
        (
            lambda c: c["tables"]["table1"].update(kind="speed"),
            "tables.table1: .*'decoding', 'parallelism'",
        ),
        (
            lambda c: c["tables"]["table1"].update(kind="decoding", base="t3d"),
            "tables.table1.base: unknown key. Allowed here: caption",
        ),
        (
            lambda c: c["tables"]["table1"].update(kind="parallelism", best_accuracy={}),
            r"tables.table1: best_accuracy names \[\], the benchmarks are",
        ),
        (
            lambda c: c["tables"]["table1"].update(rows=[{"label": "x", "model": "t3d", "benchmarks": {"gsm": "gsm"}}]),
            r"rows: 'x' fills \['gsm'\], not \['code', 'gsm'\]",
        ),
        (
            lambda c: c["tables"]["table1"].update(rows=[{"label": "x", "model": {"gsm": "t3d"}}]),
            r"rows: 'x' fills \['gsm'\], not \['code', 'gsm'\]",
        ),
        (
            lambda c: c["tables"]["table1"].update(rows=[{"label": "x", "model": {"gsm": "t3d", "code": "t4d"}}]),
            "rows.x.model names 't4d', which is not among students",
        ),
        (
            lambda c: c["benchmarks"]["gsm"].update(task="gsm_boxd"),
            "benchmarks.gsm.task: there is no task 'gsm_boxd': code_",
        ),
        (lambda c: c["benchmarks"]["gsm"].update(task="code_function"), "code_function does not fit domain gsm"),
        (lambda c: c["benchmarks"]["code"].update(task="gsm_boxed"), "gsm_boxed does not fit domain code"),
        (lambda c: c.update(teachers={}), "teachers: Dictionary should have at least 1 item"),
        (lambda c: questions(c, "gsm-test"), "prompt_sets.gsm-test.columns.answer: benchmark gsm needs a final answer"),
        (
            lambda c: questions(c, "gsm-train"),
            "prompt_sets.gsm-train.columns.reference: students.sft learns from worked",
        ),
        (lambda c: c["prompt_sets"]["gsm-train"].pop("count"), "prompts of domain gsm need `count`"),
        (lambda c: c["prompt_sets"]["gsm-train"].update(domain="mbpp"), "prompts of domain mbpp need `source`"),
        (
            lambda c: c["prompt_sets"]["gsm-train"].update(source="x"),
            "domain gsm has no source: its problems come from",
        ),
        (
            lambda c: c["tables"]["table1"].update(
                rows=[{"label": "T3D", "model": "sft", "benchmarks": {"gsm": "gsm", "code": "code"}}]
            ),
            "tables.table1: two of its rows have the label 'T3D'",
        ),
        (
            lambda c: c["figures"]["accuracy"].update(kind="commits", budgets=["b8t0.9"]),
            "figures.accuracy: budgets: b8t0.9 has no fixed number of steps",
        ),
        (lambda c: c["students"]["t3d"].update(trajectories=["gsm", "gms"]), "names 'gms', which is not among traj"),
        (
            lambda c: c["teachers"].update({"sft-seed0": c["teachers"]["pocket-sdar"]}),
            "students.sft.seeds: its run sft-seed0 has the name of teachers.sft-seed0; name one of them otherwise",
        ),
        (
            lambda c: c["teachers"].update(sft=c["teachers"]["pocket-sdar"]),
            "students.sft has the name of teachers.sft; name one of them otherwise",
        ),
        (
            lambda c: c["students"].update({"sft-seed0": c["students"]["redi"]}),
            "students.sft-seed0 has the name of students.sft.seeds: its run sft-seed0",
        ),
        (
            lambda c: c["teachers"].update({"pocket-sdar.states": c["teachers"]["pocket-sdar"]}),
            "'pocket-sdar.states' ends in .states, which names a file beside an artefact",
        ),
        (
            lambda c: c["prompt_sets"].update({"gsm-test.partial": c["prompt_sets"]["gsm-test"]}),
            "'gsm-test.partial' ends in .partial",
        ),
        (lambda c: c["students"]["t3d"].update(seeds=[1, 0, 1]), "students.t3d: seeds lists one twice: 1, 0, 1"),
        (
            lambda c: c["students"]["sft"].update(prompts=["gsm-train", "gsm-train"]),
            "students.sft: prompts lists one twice: gsm-train, gsm-train",
        ),
        (
            lambda c: c["students"]["t3d"].update(rows={"max_response_tokens": 7}),
            "students.t3d: rows.max_response_tokens: 7 tokens hold no whole block of 8",
        ),
        (
            lambda c: c["trajectories"]["gsm"].update(budget="b08s8"),
            "trajectories.gsm.budget: budget 'b08s8' is written b8s8",
        ),
        (
            lambda c: c["tables"]["table1"]["budgets"].append("b8t0.90"),
            r"tables.table1.budgets.3: budget 'b8t0.90' is written b8t0.9\.",
        ),
        (
            lambda c: c["tables"]["table1"]["budgets"].append("b8t0.9999999"),
            "budget 'b8t0.9999999': threshold 0.9999999 has more than 4 decimals",
        ),
        (lambda c: c["benchmarks"].update(average=c["benchmarks"]["gsm"]), "benchmarks.average: the tables use this"),
        (lambda c: c["students"]["t3d"]["optimizer"].update(micro_batch_size=5), "micro_batch_size 5 does not divide"),
        (lambda c: c["teachers"]["pocket-sdar"].pop("path"), "a teacher with source: shipped needs `path`"),
        (lambda c: c.update(name="x"), "`name` follows from the file's name"),
        (
            lambda c: c["tables"]["table1"].update(autoregressive="pocket-sdar"),
            "tables.table1.autoregressive: pocket-sdar has no `attention: causal`",
        ),
        (
            lambda c: c["tables"]["table9"].update(autoregressive="pocket-sdar"),
            "tables.table9.autoregressive: unknown key",
        ),
        (
            lambda c: with_ar(c)["prompt_sets"]["gsm-test"].update(teacher="ar"),
            "gsm-test.teacher: ar is autoregressive",
        ),
        (lambda c: with_ar(c)["tables"]["table1"].update(teacher="ar"), "tables.table1.teacher: ar is autoregressive"),
        (
            lambda c: with_ar(c, label="T3D")["tables"]["table1"].update(autoregressive="ar"),
            "tables.table1: two of its rows have the label 'T3D'",
        ),
        (
            lambda c: rounds(c, students__t3d__trajectories="again"),
            r"trajectories.again.model: a ring \(t3d\), in which no student could be made first; name one",
        ),
        (
            lambda c: rounds(c, students__t3d__initial="t3d"),
            r"students.t3d.initial: a ring \(t3d\)",
        ),
        (
            lambda c: rounds(c, students__redi__initial="next", students__t3d__initial="redi"),
            r"(students\.\w+\.initial, ){2}students\.\w+\.initial: a ring \(\w+, \w+, \w+\)",
        ),
        (
            lambda c: rounds(c, students__t3d__initial="next", students__next__initial=None),
            r"students.t3d.initial, trajectories.again.model: a ring \(t3d, next\)",
        ),
        (
            lambda c: rounds(c, trajectories__again__model="t4d"),
            "trajectories.again.model names 't4d', which is not among students",
        ),
        (lambda c: rounds(c, students__next__initial="t4d"), "students.next.initial names 't4d', which is not among"),
        (
            lambda c: rounds(c, students__next__seeds=[0, 7], students__next__initial=None),
            "trajectories.again.model: t3d has no seed 7, which students.next has",
        ),
        (lambda c: rounds(c, students__next__seeds=[7]), "t3d has no seed 7, which students.next has"),
        (
            lambda c: (
                c["teachers"].update(other=c["teachers"]["pocket-sdar"]),
                c["prompt_sets"].update(others=c["prompt_sets"]["gsm-train"] | {"teacher": "other"}),
                rounds(c, trajectories__again__prompts="others"),
            ),
            "trajectories.again.model: t3d is a student of pocket-sdar, the prompts are those of other",
        ),
        (
            lambda c: (
                c["teachers"].update(other=c["teachers"]["pocket-sdar"]),
                c["prompt_sets"].update(others=c["prompt_sets"]["gsm-train"] | {"teacher": "other"}),
                c["trajectories"].update(others={"prompts": "others"}),
                rounds(c, students__next__trajectories="others", students__next__keep=None),
            ),
            "students.next.initial: t3d is a student of pocket-sdar, students.next of other",
        ),
        (
            lambda c: rounds(c, students__next__trajectories=["gsm", "again"]),
            r"students.next.trajectories: gsm and again are rollouts of the same prompts \(gsm-train\)",
        ),
        (
            lambda c: rounds(c, trajectories__again__scored=False),
            "students.next.keep: rollouts have no scores without trajectories.again.scored",
        ),
        (lambda c: rounds(c, students__next__keep=0), "students.next.keep: Input should be greater than 0"),
        (lambda c: c["students"]["sft"].update(keep=0.5), "keep chooses among rollouts; sft learns from gold answers"),
        (
            lambda c: rounds(c, figures__factorisation__trajectories=["again"]),
            "figures.factorisation.trajectories: again has a `model`",
        ),
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


def test_a_row_of_several_models_follows_its_columns_and_not_the_order_of_the_file(tmp_path):
    def edit(content):
        content["tables"]["table1"]["rows"] = [{"label": "Both", "model": {"code": "sft", "gsm": "redi"}}]

    made = params.load(edited(tmp_path, edit))
    (row,) = (row for row in lineage.rows_of(made, made.tables["table1"]) if row.label == "Both")
    assert list(row.models.items()) == [("gsm", "redi"), ("code", "sft")]
    assert row.model == "redi"


def test_mask_ratios_must_be_a_distribution():
    with pytest.raises(ValueError, match=r"sum to 0\.9, not 1"):
        States(kind="trajectory", mask_ratios={1.0: 0.9})


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
