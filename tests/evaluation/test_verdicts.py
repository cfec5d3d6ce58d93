"""A conversion learns from right answers only: the model's own answers are judged as answers to benchmarks are."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.evaluation import scores, verdicts
from t3d.evaluation.programs import UNTESTED, answer_of
from t3d.params import Conversion
from t3d.prompts.reader import Prompt, read_prompts
from t3d.provenance import lineage, store
from t3d.teachers import convert
from tests.artefacts import made
from tests.autoregressive import answered, content_of, experiment_of, tiny_tokenizer, write_causal
from tests.sandboxed import bubblewrap

RIGHT, WRONG = "It is \\boxed{{{}}}.", "It is \\boxed{{{}1}}."


def judging(folder, **own):
    """An experiment whose conversion keeps the right ones of `own` (two shards) and all of `more`."""
    content = content_of(folder, write_causal(folder / "published"))
    content["generations"]["own"] |= {"task": "math_boxed"} | own
    content["generations"]["more"] = {"prompts": "train", "max_new_tokens": 40}
    content["teachers"]["sdar"] |= {"generations": ["own", "more"]}
    content["teachers"]["sdar"]["conversion"] |= {"steps": 6, "probes": 1, "keep": "right"}
    return experiment_of(folder, content)


def answers(prompt):
    """A wrong one, two right ones that are equal, one that is right and was cut."""
    right = RIGHT.format(prompt.answer)
    return [WRONG.format(prompt.answer), right, right, [right]]


def rows(manifest):
    return pq.read_table(store.read(manifest).file(".parquet")).to_pylist()


def test_right_answers_alone_become_rows(tmp_path):
    experiment = judging(tmp_path)
    for shard in ("own/0-of-2", "own/1-of-2"):
        answered(experiment, tmp_path, shard, answers)
    # Of generations without a task, wrong answers stay.
    answered(experiment, tmp_path, "more/0-of-1", lambda prompt: [WRONG.format(prompt.answer), ["cut"]])
    sdar = store.read(made(experiment, tmp_path, "teachers/sdar"))
    assert {"verdicts/own/0-of-2", "verdicts/own/1-of-2"} == {name for name in sdar.inputs if "verdicts" in name}
    assert (sdar.facts["answers"], sdar.facts["complete"], sdar.facts["rows"]) == (72, 48, 24)
    assert sdar.facts["generations"] == {
        "own": {"complete": 36, "right": 24, "rows": 12},
        "more": {"complete": 12, "right": None, "rows": 12},
    }
    inputs = [store.read(tmp_path / f"{name}.manifest.json") for name in lineage.inputs_of(experiment, "teachers/sdar")]
    examples, _ = convert.examples_of(*convert.answers_of(inputs), Conversion(), filler=0)
    asked = {p.id: p.answer for p in read_prompts(store.read(tmp_path / "prompts/train.manifest.json"))}
    texts = {e.id: tiny_tokenizer().decode(e.response_ids, skip_special_tokens=True) for e in examples}
    right = {f"{key}#1": RIGHT.format(answer) for key, answer in asked.items()}
    assert texts == right | {f"{key}#0": WRONG.format(answer) for key, answer in asked.items()}
    facts = store.read(tmp_path / "verdicts/own/0-of-2.manifest.json").facts
    assert facts == {"answers": 24, "complete": 18, "right": 12}


def test_many_samples_at_once_are_judged_as_each_alone(tmp_path):
    """One pass of lm-eval over all samples of all prompts; a pass for each sample is the plain way."""
    experiment = judging(tmp_path)
    answered(experiment, tmp_path, "own/0-of-2", answers)
    found = rows(made(experiment, tmp_path, "verdicts/own/0-of-2"))
    prompts = read_prompts(store.read(tmp_path / "prompts/train.manifest.json"))[::2]
    plain = {}
    for sample in range(3):
        asked = [replace(prompt, id=f"{prompt.id}#{sample}") for prompt in prompts]
        texts = {new.id: answers(prompt)[sample] for new, prompt in zip(asked, prompts, strict=True)}
        plain |= scores.judge("math_boxed", asked, texts, "")
    assert {row.pop("id"): row for row in found} == plain
    assert len(plain) == 18


TASK = "{} the numbers of a list.\n\nYour function should satisfy:\n{}\n"


@bubblewrap
def test_programs_run_against_the_asserts_of_a_task_that_the_model_wrote(tmp_path):
    content = content_of(tmp_path, write_causal(tmp_path / "published"))
    content["prompt_sets"] |= {
        "openings": {"teacher": "ar", "domain": "openings", "openings": ["Write a function to"], "split": "train"},
        "written": {"teacher": "ar", "domain": "written", "generations": "tasks", "split": "train"},
    }
    content["generations"] = {
        "tasks": {"prompts": "openings", "samples": 2},
        "own": {"prompts": "written", "task": "code_function"},
    }
    experiment = experiment_of(tmp_path, content)
    asserts = ("assert total([1, 2]) == 3\nassert total([]) == 0", "assert print(1)")
    tasks = [TASK.format(verb, tests) for verb, tests in zip((" add", " print"), asserts, strict=True)]
    answered(experiment, tmp_path, "tasks/0-of-1", lambda prompt: tasks)
    programs = ["def total(x):\n    return sum(x)", "def total(x):\n    return x[0] + x[1]", "No."]
    fenced = [f"```python\n{program}\n```" for program in programs]
    answered(experiment, tmp_path, "own/0-of-1", lambda prompt: fenced)
    found = rows(made(experiment, tmp_path, "verdicts/own/0-of-1"))
    assert [row["correct"] for row in found] == [True, False, False, False, False, False]
    assert found[1]["reason"].startswith("IndexError")
    assert {row["reason"] for row in found[3:]} == {UNTESTED}
    facts = store.read(tmp_path / "verdicts/own/0-of-1.manifest.json").facts
    assert facts == {"answers": 6, "complete": 6, "right": 1, "untested": 3}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], ("f", ["assert f(1) == 2", "assert f(2) == 3"])),
        # The outermost call that is no builtin names the function; what is no Python, or calls another, is left out.
        (["assert set(f(g(1))) == {1}", "assert g(2) == 3"], ("f", ["assert set(f(g(1))) == {1}"])),
        (["assert f([1)) == 2", "assert f(2) == 3"], ("f", ["assert f(2) == 3"])),
        (["assert f(x) == [y for y in x]", "assert g(2) == 3"], ("g", ["assert g(2) == 3"])),
        (['assert f("\\d") == 1, "no"'], ("f", ["assert f('\\\\d') == 1"])),
        (["assert True", "assert len([1]) == 1", "print(f(1))", " assert f(1)"], None),
        (["assert " + "(" * 1000 + "f(1)" + ")" * 1000, "assert f(1)" + ".a" * 5000 + "\0"], None),
    ],
)
def test_the_asserts_of_a_question_are_its_tests(lines, expected, recwarn):
    text = "\n".join(["Write it.", "", "Your function should satisfy:", *lines])
    found = answer_of(Prompt("q", "written", "train", text, [1], "", [], ""))
    if expected is None:
        assert found == ""
    else:
        assert json.loads(found) == {"entry_point": expected[0], "tests": expected[1], "setup": ""}
    assert not recwarn.list
    assert answer_of(Prompt("q", "mbpp", "train", text, [1], "", [], "{}")) == "{}"


def test_nothing_right_is_one_sentence_and_nothing_is_made(tmp_path):
    experiment = judging(tmp_path)
    for shard in ("own/0-of-2", "own/1-of-2", "more/0-of-1"):
        answered(experiment, tmp_path, shard, lambda prompt: [WRONG.format(prompt.answer)])
    with pytest.raises(DataError, match=r"of 12 complete answers \(own\) none is right. Check the `task`"):
        made(experiment, tmp_path, "teachers/sdar")
    assert not list((tmp_path / "teachers").glob("sdar*"))


def test_verdicts_on_other_answers_are_refused(tmp_path):
    experiment = judging(tmp_path, shards=1)
    answered(experiment, tmp_path, "own/0-of-1", answers)
    answered(experiment, tmp_path, "more/0-of-1", answers)
    judged = store.read(made(experiment, tmp_path, "verdicts/own/0-of-1"))
    new = store.read(answered(experiment, tmp_path, "own/0-of-1", lambda prompt: answers(prompt)[:2]))
    with pytest.raises(CorruptArtefactError, match=r"its verdicts are not on the complete answers of .*0-of-1"):
        convert.answers_of([new, judged])
    with pytest.raises(CorruptArtefactError, match=r"inputs.generations/own/0-of-1 is not the file at"):
        made(experiment, tmp_path, "teachers/sdar")


def test_what_cannot_be_judged_is_refused(tmp_path):
    experiment = judging(tmp_path, shards=1)
    answered(experiment, tmp_path, "more/0-of-1", answers)
    out = tmp_path / "verdicts/own/0-of-1.manifest.json"
    given = [tmp_path / f"{name}.manifest.json" for name in ("teachers/ar", "prompts/train", "generations/more/0-of-1")]
    with pytest.raises(ParameterError, match=r"generations.more has no `task` that says which answers are right"):
        verdicts.make(experiment, "more", "0-of-1", given, out)
    with pytest.raises(ParameterError, match="has no generations 'others'"):
        verdicts.make(experiment, "others", "0-of-1", given, out)
    with pytest.raises(DataError, match="is generations/more/0-of-1; verdicts/own/0-of-1 is made from"):
        verdicts.make(experiment, "own", "0-of-1", given, out)
    stranger = answered(experiment, tmp_path, "own/0-of-1", answers)
    asked = store.read(given[1])
    lines = asked.file(".jsonl").read_text().splitlines(keepends=True)
    asked.file(".jsonl").write_text("".join(lines[1:]))
    assert stranger.is_file()
    with pytest.raises(CorruptArtefactError):
        verdicts.make(experiment, "own", "0-of-1", [*given[:2], stranger], out)
    assert not out.parent.exists()
