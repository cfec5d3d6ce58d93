"""`t3d decode --question` where only the texts of answers were published."""

import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from t3d import params
from t3d.errors import DataError, ParameterError
from t3d.provenance import store, writer
from t3d.provenance.parquet import ANSWERS, VERDICTS
from t3d.terminal import published
from tests.artefacts import pack_texts
from tests.conftest import SHIPPED
from tests.started import clone, forked
from tests.terminal.screen import drawn_by

SAYS = {
    "pocket-sdar/b8s8": "It is\n\\boxed{7}. \x1b[2J",
    "pocket-sdar/b8s2": "It is \\boxed{6}.",
    "t3d-seed0/b8s2": "So " + "7" * 200,
    "t3d-random-seed0/b8s2": "",
}
BODY = "```python\ndef f(n):\n    return n\n```"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone in which an experiment published texts; of its scores, the teacher's at `b8s2` is here."""
    monkeypatch.chdir(clone(tmp_path))
    pack_texts(
        "demo",
        {
            "gsm": [{"id": "q1", "answers": SAYS}],
            "humaneval": [{"id": "HumanEval/0", "answers": {"pocket-sdar/b8s8": BODY}}],
        },
    )
    experiment = params.find("demo")
    path = store.manifest_path(experiment, "scores/pocket-sdar/gsm/b8s2")
    with writer.writing(experiment, "scores/pocket-sdar/gsm/b8s2", path) as job:
        verdict = {"id": "q1", "correct": False, "extracted": "6", "reason": None, "response_tokens": 1}
        rows = [verdict | {"denoising_steps": 1}]
        pq.write_table(pa.Table.from_pylist(rows, schema=VERDICTS), job.file(".parquet"))
    return tmp_path


def test_the_texts_are_shown_without_a_model(project):
    arguments = ["decode", "--question", "HumanEval/0"]
    # PyTorch and transformers cannot be loaded.
    program = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from t3d.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == BODY + "\n"
    lines = done.stderr.splitlines()
    assert lines[0] == "[Question HumanEval/0]"
    assert "def has_close_elements" in done.stderr
    assert lines[-2:] == ["Original, 1 token per step (b8s8), published", published.NOT_KEPT]


def test_several_are_shown_one_after_the_other_with_their_verdicts(project):
    done = forked(project, ["decode", "--question", "q1", "--budget", "b8s2", "--compare", "t3d", "--compare", "@b8s8"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"[Original, 4 tokens per step]\n{SAYS['pocket-sdar/b8s2']}\n\n"
        f"[T3D, 4 tokens per step]\n{SAYS['t3d-seed0/b8s2']}\n\n"
        "[Original, 1 token per step]\nIt is\n\\boxed{7}. [2J\n\n"
    )
    assert "Original, 4 tokens per step (b8s2), published, wrong\n" in done.stderr
    assert "T3D, 4 tokens per step (b8s2), published\n" in done.stderr


def test_on_a_terminal_they_stand_beside_each_other(project):
    arguments = ["--question", "q1", "--budget", "b8s2", "--compare", "t3d"]
    drawn = drawn_by([sys.executable, "-m", "t3d.cli", "decode", *arguments], project)
    titles = next(line for line in drawn.splitlines() if "Original, 4 tokens per step ─" in line)
    assert "T3D, 4 tokens per step ─" in titles
    assert drawn.count("7") >= 200
    assert "wrong" in drawn
    assert published.NOT_KEPT in drawn
    assert drawn.index("Question q1") < drawn.index("It is \\boxed{6}.")


def test_a_question_whose_text_is_not_here_is_shown_by_its_id():
    shown = published.Published("q1", None, "file.jsonl is missing.", [], [])
    console = Console(width=80, record=True, file=io.StringIO())
    shown.answers.append(published.Text("Original", params.read_budget("b8s2"), "It is.", True))
    published.show(shown, console)
    drawn = console.export_text()
    assert "Question q1" in drawn
    assert "The question's text is not here: file.jsonl is missing." in drawn
    assert "right" in drawn
    assert "file.jsonl is missing" in published.piped(shown)[1]


@pytest.mark.parametrize(
    ("question", "model", "budget", "says"),
    [
        ("q2", None, None, "has no question 'q2'; it has 2, such as q1"),
        ("nothing like it", None, None, "it has 2, such as q1, HumanEval/0"),
        (
            "q1",
            "pocket-sdar",
            "b8s1",
            "no answer of pocket-sdar at b8s1 to q1; it has those at b8s8, b8s2: choose one with --budget, or in "
            "--compare as pocket-sdar@b8s8.",
        ),
        ("q1", "t3d", None, "no answer of t3d-seed0 at one token per step to q1; it has those at b8s2: choose"),
        (
            "q1",
            "t3d-two-weights",
            None,
            "no answer of t3d-two-weights-seed0 to q1; it has those of 3 models, such as t3d-",
        ),
    ],
)
def test_what_was_not_published_is_one_sentence_that_names_what_is_near(project, question, model, budget, says):
    with pytest.raises(DataError) as caught:
        published.find(params.find("demo"), question, [(model, budget)], None)
    assert says in str(caught.value)
    assert str(caught.value).startswith("results/demo/answers.tar.xz has no ")
    with pytest.raises(ParameterError, match="no model 't4d'"):
        published.find(params.find("demo"), "q1", [("t4d", None)], None)


def test_a_folder_is_not_the_model_of_its_name(project):
    (project / "x").mkdir()
    (project / "x" / "pocket-sdar").symlink_to(SHIPPED)
    done = forked(project, ["decode", "--question", "q1", "--teacher", "x/pocket-sdar", "--budget", "b8s2"])
    assert done.returncode == 1
    told = (
        "t3d: x/pocket-sdar is no model of experiment demo: it has no recorded answers. The models are pocket-sdar, sft"
    )
    assert done.stderr.startswith(told)
    assert done.stdout == ""


def test_a_misspelled_model_is_named_wherever_it_stands(project):
    """And no work of hours is advised, though a folder of the project has the name."""
    (project / "t3d-fast").mkdir()
    for model, why in (("t3d-fast", "and folder t3d-fast holds none (there is no config.json)"), ("t4d", "nor is it")):
        for words in (["--compare", model], ["--student", model], ["--compare", f"{model}@b8s8"]):
            done = forked(project, ["decode", "--question", "q1", "--budget", "b8s2", *words])
            assert done.returncode == 1
            assert done.stderr.startswith(f"t3d: experiment demo has no model '{model}', {why}")
            assert "pocket-sdar, sft" in done.stderr
            assert "snakemake" not in done.stderr


def test_answers_that_were_recorded_here_are_shown_instead(project):
    experiment = params.find("demo")
    path = store.manifest_path(experiment, "answers/pocket-sdar/gsm/b8s2")
    row = {"id": "q1", "text": "", "response_ids": [1], "step_map": [1], "confidence": [1.0], "finish_reason": "stop"}
    row |= {"response_tokens": 1, "denoising_steps": 1, "commit_passes": 1}
    with writer.writing(experiment, "answers/pocket-sdar/gsm/b8s2", path) as job:
        pq.write_table(pa.Table.from_pylist([row], schema=ANSWERS), job.file(".parquet"))
    assert published.find(experiment, "q1", [(None, "b8s2")], None) is None
    # One recorded answer hides no other text of the model.
    assert published.find(experiment, "q1", [(None, "b8s8")], None) is not None
    assert published.find(experiment, "HumanEval/0", [(None, "b8s8")], None) is not None
    # Of one of both only the text is here.
    found = published.find(experiment, "q1", [(None, "b8s2"), ("t3d", "b8s2")], None)
    assert [answer.right for answer in found.answers] == [False, None]
    assert found.notes == [published.NOT_KEPT]
    (project / "results" / "demo" / "published.tar.xz").touch()
    found = published.find(experiment, "q1", [(None, "b8s2"), ("t3d", "b8s2")], None)
    assert found.notes[1:] == ["Verdicts come with t3d pull scores --experiment demo."]
    path.with_name("b8s2.parquet").unlink()
    assert published.find(experiment, "q1", [(None, "b8s2")], None) is not None
    (project / "results" / "demo" / "answers.tar.xz").unlink()
    assert published.find(experiment, "q1", [(None, "b8s2")], None) is None
