"""Nothing that is learned from is asked, and an artefact names what it is made from."""

import json
import re
from pathlib import Path

import pytest

from t3d.errors import CorruptArtefactError, DataError
from t3d.prompts.reader import Prompt, check_disjoint
from t3d.provenance import verify
from tests.artefacts import inputs_of
from tests.reporting import helpers


def prompt(name, text, split):
    return Prompt(name, "questions", split, text, [1], "", [], "")


def test_a_question_of_both_splits_is_named():
    train = [prompt("a/0", "What is 1 + 1?", "train"), prompt("a/1", "What is 2 + 2?", "train")]
    check_disjoint([train, [prompt("b/0", "What is 3 + 3?", "test")], [prompt("a/0", "What is 1 + 1?", "train")]])
    with pytest.raises(DataError, match=r"a/1 of split train and b/0 of split test ask the same: 'what is  2 \+ 2\?'"):
        check_disjoint([train, [prompt("b/0", "what is  2 + 2?", "test")]])
    with pytest.raises(DataError, match="a/0 of split train and a/0 of split validation"):
        check_disjoint([train, [prompt("a/0", "Something else", "validation")]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c["inputs"].pop("prompts/ask"),
            "inputs are answers/teacher/gsm/b4s2; scores/.* is made from",
        ),
        (lambda c: c["inputs"].update({"prompts/learn": "0" * 64}), "inputs are .*prompts/learn"),
        (lambda c: c["inputs"].update({"prompts/ask": "0" * 64}), "inputs.prompts/ask is not the file at"),
    ],
)
def test_an_artefact_that_was_made_from_something_else_is_not_verified(tmp_path, monkeypatch, edit, message):
    monkeypatch.chdir(tmp_path)
    tiny, root, artefact = helpers.experiment(), Path("data", "tiny"), "scores/teacher/gsm/b4s2"
    inputs_of(tiny, root, artefact)
    path = helpers.write_score(tiny, root, "teacher", "gsm", "b4s2", "11100000")
    assert verify.fault(tiny, artefact, files="contents", receipt=True) is None
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    found = verify.fault(tiny, artefact, files="sizes")
    assert isinstance(found, CorruptArtefactError)
    assert re.search(message, str(found))
