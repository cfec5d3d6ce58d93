"""Questions as text are those that a prompt set asks, without its tokenizer."""

import json
from dataclasses import replace

import pytest

from t3d.errors import CorruptArtefactError, DataError, MissingInputError
from t3d.params import Experiment
from t3d.prompts import asked
from t3d.prompts.reader import read_prompts
from t3d.provenance import store
from tests.artefacts import made
from tests.conftest import SHIPPED

ROWS = [{"q": f"What is {number} + {number}?", "a": f"#### {2 * number}"} for number in range(9)]
COLUMNS = {"question": "q", "answer": "a", "answer_pattern": "#### (.*)"}
MBPP = {"text": "Double it.", "code": "def f(n):\n    return 2 * n", "test_list": ["assert f(1) == 2"]}
SETS = {
    "numbers": {"domain": "questions", "source": "file", "file": "rows.jsonl", "columns": COLUMNS, "rows": [2, 6]},
    "tasks": {"domain": "mbpp", "source": "file", "file": "mbpp.jsonl"},
    "functions": {"domain": "code", "count": 3},
    "humaneval": {"domain": "humaneval", "count": 2},
}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment with a prompt set of each kind, whose files are in the folder `local`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    tasks = [MBPP | {"task_id": number} for number in (3, 11, 12, 700)]
    (tmp_path / "local" / "mbpp.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    files = {path.name: store.sha256(path) for path in (tmp_path / "local").iterdir()}
    return Experiment(
        name="x",
        teachers={"m": {"source": "shipped", "path": str(SHIPPED)}},
        sources={"file": {"repository": "owner/rows", "revision": "0" * 40, "local": "local", "files": files}},
        prompt_sets={name: {"teacher": "m", "split": "test"} | spec for name, spec in SETS.items()},
    )


@pytest.mark.parametrize("name", SETS)
def test_they_are_those_of_the_prompt_set(experiment, tmp_path, name):
    found = asked.find(experiment, name)
    # The set itself is made elsewhere, so that its file is not what was read.
    prompts = read_prompts(store.read(made(experiment, tmp_path / "elsewhere", f"prompts/{name}")))
    assert found == {prompt.id: replace(prompt, prompt_ids=[], reference_ids=[]) for prompt in prompts}
    assert list(found) == [prompt.id for prompt in prompts]


def test_a_set_that_is_here_is_read(experiment, tmp_path):
    made(experiment, tmp_path / "data" / "x", "prompts/numbers")
    assert all(prompt.prompt_ids for prompt in asked.find(experiment, "numbers").values())
    # As in a project with the published scores: the manifests are here, and no file of them.
    (tmp_path / "data" / "x" / "prompts" / "numbers.jsonl").unlink()
    (tmp_path / "local" / "rows.jsonl").unlink()
    assert list(asked.find(experiment, "numbers")) == [f"file/rows/{number}" for number in range(2, 6)]
    (tmp_path / "data" / "x" / "sources" / "file" / "rows.jsonl").unlink()
    with pytest.raises(MissingInputError, match=r"local/rows\.jsonl is missing: put rows\.jsonl there"):
        asked.find(experiment, "numbers")


def test_what_cannot_be_read_is_one_sentence(experiment, tmp_path):
    (tmp_path / "local" / "rows.jsonl").write_text("{}\n")
    with pytest.raises(CorruptArtefactError, match=r"local/rows\.jsonl: sha256 is .*sources\.file\.files asks for"):
        asked.find(experiment, "numbers")
    source = experiment.sources["file"].model_copy(update={"local": None})
    with pytest.raises(MissingInputError, match=r"mbpp\.jsonl of owner/rows is not here: fetch it \(snakemake data/x"):
        asked.find(experiment.model_copy(update={"sources": {"file": source}}), "tasks")
    limited = experiment.prompt_sets["functions"].model_copy(update={"max_prompt_tokens": 9})
    with pytest.raises(DataError, match=r"prompt_sets\.functions: only a tokenizer knows"):
        asked.find(experiment.model_copy(update={"prompt_sets": {"functions": limited}}), "functions")


def test_questions_that_are_not_here_are_none_and_the_reason(experiment, tmp_path):
    assert asked.find_or_why(experiment, "numbers") == (asked.find(experiment, "numbers"), "")
    limited = experiment.prompt_sets["functions"].model_copy(update={"max_prompt_tokens": 9})
    found, why = asked.find_or_why(experiment.model_copy(update={"prompt_sets": {"functions": limited}}), "functions")
    assert (found, why[:24]) == ({}, "prompt_sets.functions: o")
    rows = tmp_path / "local" / "rows.jsonl"
    # A damaged file is no file that is not here.
    rows.write_text("{}\n")
    with pytest.raises(CorruptArtefactError):
        asked.find_or_why(experiment, "numbers")
    rows.unlink()
    found, why = asked.find_or_why(experiment, "numbers")
    assert not found
    assert "rows.jsonl is missing: put rows.jsonl there" in why
