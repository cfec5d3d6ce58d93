"""`benchmarks/rejudge.py`: published verdicts that are today's, and one that is another."""

import json
from pathlib import Path
from platform import python_version

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import rejudge
from t3d import params
from t3d.errors import CorruptArtefactError, DataError, MissingInputError
from t3d.evaluation import boxed
from t3d.provenance import store, writer
from t3d.provenance.parquet import VERDICTS
from tests.artefacts import pack_texts
from tests.conftest import SHIPPED

ROWS = [{"q": "Half of one?", "a": r"\frac{1}{2}"}, {"q": "How many?", "a": "7"}]
TASK = {"task_id": 11, "text": "Double it.", "code": "def f(n):\n    return 2 * n", "test_list": ["assert f(1) == 2"]}
RIGHT, WRONG = "```python\ndef f(n):\n    return n + n\n```", "```python\ndef f(n):\n    return n\n```"
TEXTS = {
    "math": [
        {"id": "file/rows/0", "answers": {"m/b4s4": r"It is \boxed{0.5}.", "m/b4s1": r"It is \boxed{2}."}},
        {"id": "file/rows/1", "answers": {"m/b4s4": r"\boxed{7}", "m/b4s1": r"\boxed{7}"}},
    ],
    "mbpp": [{"id": "file/mbpp/11", "answers": {"m/b4s4": RIGHT, "m/b4s1": WRONG}}],
}
VERDICTS_OF = {"math/b4s4": [True, True], "math/b4s1": [False, True], "mbpp/b4s4": [True], "mbpp/b4s1": [False]}


@pytest.fixture
def score(tmp_path, monkeypatch):
    """A project with published texts and verdicts, the working directory; `score(cell, verdicts)` changes verdicts."""
    monkeypatch.chdir(tmp_path)
    # Its processes must not share the one that compares with the tests before it.
    boxed._process.cache_clear()
    for name, rows in (("rows.jsonl", ROWS), ("mbpp.jsonl", [TASK])):
        (tmp_path / "local").mkdir(exist_ok=True)
        (tmp_path / "local" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {path.name: store.sha256(path) for path in (tmp_path / "local").iterdir()}
    asked = {"teacher": "m", "split": "test", "source": "file"}
    content = {
        "teachers": {"m": {"source": "shipped", "path": str(SHIPPED)}},
        "sources": {"file": {"repository": "o/rows", "revision": "0" * 40, "local": "local", "files": files}},
        "prompt_sets": {
            "rows": asked | {"domain": "questions", "file": "rows.jsonl", "columns": {"question": "q", "answer": "a"}},
            "tasks": asked | {"domain": "mbpp", "file": "mbpp.jsonl"},
        },
        "benchmarks": {
            "math": {"label": "Math", "prompts": "rows", "task": "math_boxed"},
            "mbpp": {"label": "MBPP", "prompts": "tasks", "task": "code_function", "sandbox": "process"},
        },
    }
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "tiny.yaml").write_text(json.dumps(content))
    pack_texts("tiny", TEXTS)
    experiment = params.find("tiny")

    def write(cell, verdicts):
        benchmark = cell.partition("/")[0]
        artefact = f"scores/m/{cell}"
        ids = [line["id"] for line in TEXTS[benchmark]]
        rows = [
            {"id": key, "extracted": "", "correct": right, "reason": None, "response_tokens": 1, "denoising_steps": 1}
            for key, right in zip(ids, verdicts, strict=False)
        ]
        path = store.manifest_path(experiment, artefact)
        path.unlink(missing_ok=True)
        with writer.writing(experiment, artefact, path) as job:
            pq.write_table(pa.Table.from_pylist(rows, schema=VERDICTS), job.file(".parquet"))

    for cell, verdicts in VERDICTS_OF.items():
        write(cell, verdicts)
    return write


def run(capsys, *arguments):
    """Exit status, the rows of the table, and the lines below."""
    status = rejudge.main(["tiny", *arguments])
    _, *lines = capsys.readouterr().out.splitlines()
    return status, {line.split()[0]: line.split()[1:5] for line in lines if line[0] != " "}, lines


def test_verdicts_that_are_the_same_are_counted(score, capsys):
    status, rows, lines = run(capsys)
    assert status == 0
    assert rows["math"] == ["4", "4", "0", "0"]
    assert rows["mbpp"] == ["2", "2", "0", "0"]
    assert lines[-1] == "No verdict differs."


def test_those_that_differ_are_named(score, capsys, monkeypatch):
    score("math/b4s4", [False, True])
    score("math/b4s1", [True, True])
    score("mbpp/b4s4", [False])
    status, rows, lines = run(capsys)
    assert status == 1
    assert rows["math"] == ["4", "2", "1", "1"]
    assert rows["mbpp"] == ["2", "1", "1", "0"]
    assert "  now right: m/math/b4s4 file/rows/0" in lines
    assert "  now wrong: m/math/b4s1 file/rows/0" in lines
    assert "  now right: m/mbpp/b4s4 file/mbpp/11" in lines
    assert lines[-1] == "3 verdicts differ."
    # Programs behave as their Python does; the verdicts of this test are of the same.
    assert not [line for line in lines if "published with Python" in line]
    receipt = Path(f"data/tiny/scores/m/mbpp/b4s4{store.RECEIPT}")
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"python": "3.99.1"}))
    status, rows, lines = run(capsys, "--benchmark", "mbpp")
    assert (status, lines[-1]) == (1, "1 verdict differs.")
    assert f"  published with Python 3.99.1; programs run in {python_version()} here, which may be why" in lines
    monkeypatch.setattr(rejudge, "SHOWN", 0)
    assert "  now right: 1 more" in run(capsys, "--benchmark", "mbpp")[2]


def test_what_is_not_here_or_does_not_fit_is_one_sentence(score, capsys):
    def refused(error, says, *arguments):
        with pytest.raises(error, match=says) as caught:
            run(capsys, *arguments)
        assert len(str(caught.value).splitlines()) == 1

    refused(DataError, r"answers\.tar\.xz has no benchmark 'gsm': math, mbpp", "--benchmark", "gsm")
    score("mbpp/b4s1", [])
    refused(DataError, r"b4s1\.manifest\.json and .* have other questions: 1 are in one alone \(e\.g\. file/mbpp/11\)")
    store.manifest_path(params.find("tiny"), "scores/m/mbpp/b4s1").unlink()
    refused(MissingInputError, r"get the published verdicts first \(t3d pull scores --experiment tiny\)")
    pack_texts("tiny", {"math": [TEXTS["math"][0] | {"id": "file/rows/7"}]})
    refused(DataError, "have other questions")
    pack_texts("tiny", {"math": ["{"]})
    refused(CorruptArtefactError, r"answers/math\.jsonl, line 1: Invalid JSON")
    pack_texts("tiny", {}).unlink()
    refused(MissingInputError, "experiment tiny published no texts")
