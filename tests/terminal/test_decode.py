"""`t3d decode` as it is typed: piped and on a terminal, in a project where nothing was made."""

import io
import json
import os
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from t3d import params
from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import DataError, ParameterError
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Budget
from t3d.prompts.reader import encode_prompt
from t3d.provenance import store, writer
from t3d.provenance.parquet import ANSWERS
from t3d.terminal import decode as asking
from t3d.terminal import replay
from tests.conftest import ROOT, SHIPPED
from tests.started import clone, forked
from tests.terminal.screen import drawn_by

QUESTION = "James has 3 marbles. He buys 4 more marbles. How many marbles does James have?"
COMMAND = [sys.executable, "-m", "t3d.cli", "decode"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone, which is the working directory."""
    monkeypatch.chdir(clone(tmp_path))
    return tmp_path


@pytest.fixture
def response(teacher, tokenizer):
    """What the decoder itself says to the question at a budget."""

    def respond(budget):
        request = Request(encode_prompt(tokenizer, QUESTION), seed=0)
        options = DecodingOptions(256, stop_ids(SHIPPED), mask_id(tokenizer))
        return decode(teacher, [request], Budget.parse(budget), options)[0]

    return respond


def on_a_terminal(project, *arguments):
    return drawn_by([*COMMAND, *arguments], project)


def test_piped_it_is_the_answer_alone(project, tokenizer, response):
    line = [*COMMAND, QUESTION, "--budget", "b8s2"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=project, capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr
    expected = response("b8s2")
    text = tokenizer.decode(expected.ids[: expected.length], skip_special_tokens=True)
    assert done.stdout == text + "\n"
    (line,) = done.stderr.splitlines()
    steps = expected.denoising_steps
    assert line.startswith(f"Original, 4 tokens per step (b8s2): {expected.length} tokens in {steps} denoising steps")
    assert re.search(r"[\d.]+ s, \d+ tokens/s; weights: data/shipped/pocket-sdar$", line)
    assert list(project.glob("data/*")) == [project / "data" / "shipped"]


def test_where_scores_alone_were_pulled_the_shipped_teacher_answers(project):
    experiment, manifest = params.find("demo"), store.manifest_path(params.find("demo"), "teachers/pocket-sdar")
    with writer.writing(experiment, "teachers/pocket-sdar", manifest) as job:
        (job.folder() / "config.json").write_text("{}")
    assert asking.find_model(experiment, None).folder == manifest.parent / "pocket-sdar"
    (manifest.parent / "pocket-sdar" / "config.json").unlink()
    assert str(asking.find_model(experiment, None).folder) == "data/shipped/pocket-sdar"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_model_of_an_experiment_for_a_gpu_is_asked_on_a_cpu(tokenizer, response):
    experiment = params.load(ROOT / "params" / "demo.yaml").model_copy(update={"device": "cuda"})
    found = asking.answer(experiment, asking.find_model(experiment, str(SHIPPED)), Budget.parse("b8s2"), QUESTION, 256)
    expected = response("b8s2")
    assert found.text == tokenizer.decode(expected.ids[: expected.length], skip_special_tokens=True)


def test_on_a_terminal_two_budgets_are_written_side_by_side(project, response):
    drawn = on_a_terminal(project, QUESTION, "--budget", "b8s1", "--compare", f"{SHIPPED}@b8s8", "--pace", "1000")
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", drawn)
    fast, slow = response("b8s1").denoising_steps, response("b8s8").denoising_steps
    frames = set(re.findall(r"(\d+) of (\d+) steps", plain))
    assert frames == {(str(n), str(of)) for of in (fast, slow) for n in range(of + 1)}
    assert "░░" in plain.split(f"{slow} of {slow} steps")[0]
    assert "38;5;46m" in drawn
    assert "38;5;141m" in drawn
    assert plain.count("tokens/s") == 2
    assert "the times are the decoder's own" in plain


def test_every_denoising_step_is_one_state_and_the_last_is_the_answer(tokenizer, response):
    for budget in ("b8s1", "b8s4", "b4s4", "b8t0.9"):
        found = response(budget)
        shown = asking._answer(tokenizer, asking.Model("x", None, None), Budget.parse(budget), found, 1.0)
        states = replay.states(shown)
        assert len(states) == found.denoising_steps + 1
        pictures = [replay.picture(shown, number).plain for number in range(len(states))]
        assert pictures[-1] == shown.text == tokenizer.decode(found.ids[: found.length], skip_special_tokens=True)
        assert pictures[0].replace(replay._MASK, "") == ""
        assert replay.picture(shown, len(states) + 5).plain == shown.text


def test_what_a_model_writes_does_not_steer_the_terminal():
    assert asking.printable("a\x1b[2J\x07b\n\tc\r") == "a[2Jb\n\tc"


def test_a_recorded_answer_is_shown_as_it_was_recorded(project, response):
    experiment = params.find("demo")
    model = asking.find_model(experiment, None)
    with pytest.raises(DataError, match=r"holds no recorded answers: make them first \(snakemake .*=demo\)\.$"):
        asking.recorded(experiment, model, Budget.parse("b8s2"), "q1")
    found = response("b8s2")
    row = {"id": "q1", "text": "", "response_ids": found.ids, "step_map": found.step_map}
    row |= {"confidence": found.confidence, "response_tokens": found.length, "finish_reason": found.finish_reason}
    row |= {"denoising_steps": found.denoising_steps, "commit_passes": found.commit_passes}
    artefact = "answers/pocket-sdar/gsm/b8s2"
    with writer.writing(experiment, artefact, store.manifest_path(experiment, artefact)) as job:
        pq.write_table(pa.Table.from_pylist([row], schema=ANSWERS), job.file(".parquet"))
    shown = asking.recorded(experiment, model, Budget.parse("b8s2"), "q1")
    assert (shown.step_map, shown.denoising_steps) == (found.step_map, found.denoising_steps)
    assert shown.statistics().endswith("commit passes, recorded")
    assert (shown.label, shown.prompt, shown.right) == ("Original, 4 tokens per step", None, None)
    ask = {"id": "q1", "domain": "gsm", "split": "test", "text": QUESTION, "prompt_ids": [1], "reference": "7"}
    for name in ("gsm-test", "code-test"):
        with writer.writing(experiment, f"prompts/{name}", store.manifest_path(experiment, f"prompts/{name}")) as job:
            job.file(".jsonl").write_text(json.dumps(ask | {"reference_ids": [1], "answer": "7"}) + "\n")
    score = "scores/pocket-sdar/gsm/b8s2"
    with writer.writing(experiment, score, store.manifest_path(experiment, score)) as job:
        verdicts = {"id": "q1", "correct": True, "extracted": "7", "reason": None}
        verdicts |= {"response_tokens": 1, "denoising_steps": 1}
        pq.write_table(pa.Table.from_pylist([verdicts]), job.file(".parquet"))
    shown = asking.recorded(experiment, model, Budget.parse("b8s2"), "q1")
    assert shown.statistics().endswith("commit passes, recorded, right")
    console = Console(width=66, record=True, file=io.StringIO())
    replay.show([shown] * 3, 0, console)
    drawn = console.export_text()
    assert "Question q1" in drawn
    assert QUESTION[:40] in drawn
    assert "expected: 7" in drawn
    # Two beside each other, the third below.
    assert drawn.count("Original, 4 tokens per step") == 3 + 3
    assert drawn.count("steps ──") == 3
    with pytest.raises(DataError, match=r"no benchmark whose prompts are here asks 'nope'; one of each: q1, q1\."):
        asking.recorded(experiment, model, None, "nope")
    with pytest.raises(DataError, match="recorded no question 'q2' at b8s2; it did q1"):
        asking.recorded(experiment, model, Budget.parse("b8s2"), "q2")
    with pytest.raises(DataError, match="recorded answers at b8s2: choose one with --budget"):
        asking.recorded(experiment, model, None, "q1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--student", "t4d"), "experiment demo has no model 't4d', nor is it a folder: pocket-sdar, sft"),
        (("--student", "t3d"), "data/demo/students/t3d-seed0.manifest.json is missing: make it first"),
        (("--compare", "@b8s9"), "--budget: budget 'b8s9': 9 steps for a block of 8 tokens"),
        (("--student", "t3d", "--teacher", "pocket-sdar"), "give --teacher or --student"),
        (("--question", "q1"), "ask one question"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(project, arguments, message):
    done = forked(project, ["decode", QUESTION, *arguments])
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_training_that_there_is_not_is_named():
    experiment = params.load(ROOT / "params" / "demo.yaml")
    with pytest.raises(ParameterError, match="student t3d has no seed 4: 0"):
        asking.find_model(experiment, "t3d", seed=4)
