"""Questions of files: rows in three formats, answers by pattern, and what is said when a row does not fit."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.params import Columns
from t3d.prompts import files, questions

ROWS = [{"question": "1 + 1?", "answer": "Two.\n#### 1,002"}, {"question": "2 + 2?", "answer": "#### -4"}]


@pytest.fixture(params=["jsonl", "json", "parquet"])
def path(request, tmp_path):
    path = tmp_path / f"rows.{request.param}"
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif request.param == "json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS))
    return path


def test_rows_are_the_same_in_every_format(path):
    assert files.read(path) == ROWS


def test_other_line_ends_of_unicode_end_no_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "one\u2028two\u0085?"}\n', encoding="utf-8")
    assert files.read(tmp_path / "rows.jsonl") == [{"q": "one\u2028two\u0085?"}]


def test_answers_are_found_by_pattern_and_rows_named_by_number(path):
    columns = Columns(question="question", answer="answer", answer_pattern="#### (.*)", reference="answer")
    found = list(questions.problems(path, files.read(path), columns))
    assert [(q.id, q.question, q.answer) for q in found] == [("0", "1 + 1?", "1,002"), ("1", "2 + 2?", "-4")]
    assert found[0].solution == ROWS[0]["answer"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": "problem"}, r"row 0: no 'problem'. Its columns: question, answer"),
        (
            {"question": "question", "answer": "answer", "answer_pattern": "=> (.*)"},
            "row 0: answer .* no answer by the",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(path, columns, message):
    with pytest.raises(DataError, match=message):
        list(questions.problems(path, files.read(path), Columns(**columns)))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("rows.csv", b"a,b", ParameterError),
        ("rows.jsonl", b'{"a": 1}\n{"a"', CorruptArtefactError),
        ("rows.json", b'{"a": 1}', CorruptArtefactError),
        ("rows.parquet", b"PAR1 torn", CorruptArtefactError),
        ("rows.json", b"\xff\xfe", CorruptArtefactError),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(tmp_path, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=name):
        files.read(tmp_path / name)


@pytest.mark.parametrize("pattern", ["(", "no group", "(a)(b)"])
def test_a_pattern_has_one_group(pattern):
    with pytest.raises(ValueError, match="answer_pattern"):
        Columns(question="q", answer="a", answer_pattern=pattern)
