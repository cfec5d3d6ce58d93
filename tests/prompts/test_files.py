"""Questions of files: rows in three formats, answers by pattern, and what is said when a row does not fit."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.evaluation import equality
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


def test_worked_answers_are_edited_one_after_another():
    worked = "Two times <<2*3=6>>6 is $<<6*2=12>>12.\nDone.\n#### 12"
    edits = (("<<.*?>>", ""), ("#### (.*)", r"The answer is \\boxed{\1}."))
    columns = Columns(question="q", reference="a", reference_edits=edits)
    (found,) = questions.problems(Path("f"), [{"q": "?", "a": worked}], columns)
    assert found.solution == "Two times 6 is $12.\nDone.\nThe answer is \\boxed{12}."
    columns = Columns(question="q", reference="a", reference_edits=(("(?s).*", " "),))
    with pytest.raises(DataError, match=r"f, row 0 \(counted from 0\): columns\.reference_edits leave nothing of a"):
        list(questions.problems(Path("f"), [{"q": "?", "a": worked}], columns))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": "problem"}, r"no 'problem'. Its columns: question, answer"),
        (
            {"question": "question", "answer": "answer", "answer_pattern": "=> (.*)"},
            "answer .* no answer by the",
        ),
        ({"question": "question", "answer": "answer"}, "answer is no final answer, it has a ####"),
        (
            {"question": "question", "answer": "answer", "answer_pattern": r"(?s)(.*)"},
            "answer is no final answer, it has a ####: .*by columns.answer_pattern",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named(path, columns, message):
    place = r"rows.jsonl, line 1" if path.suffix == ".jsonl" else r"row 0 \(counted from 0\)"
    with pytest.raises(DataError, match=f"{place}: {message}"):
        list(questions.problems(path, files.read(path), Columns(**columns)))


def test_lines_are_counted_as_those_that_cannot_be_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "1?", "a": "1"}\n\n{"q": "2?", "a": null}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3: 'a' is null; every row needs one\."):
        list(questions.problems(path, files.read(path), Columns(question="q", answer="a")))
    path.write_text('{"q": "1?", "a": "1"}\n\n{"q": "2?", "a"\n')
    with pytest.raises(CorruptArtefactError, match=r"rows\.jsonl, line 3: Invalid JSON"):
        files.read(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "is text in UTF-16"),
        ("utf-16-le", "may be UTF-16"),
        ("utf-8-sig", "begins with a byte order mark"),
        ("latin-1", r"is not text in UTF-8 \(line 1\)"),
    ],
)
def test_another_encoding_is_named(tmp_path, name, encoding, said):
    path = tmp_path / name
    rows = json.dumps([{"q": "How many cafés?"}], ensure_ascii=False)
    path.write_text(rows.strip("[]") if name.endswith("l") else rows, encoding=encoding)
    with pytest.raises(CorruptArtefactError, match=rf"{name} .*{said}; save it as UTF-8 .*Correct it"):
        files.read(path, "Correct it.")


@pytest.mark.parametrize(
    ("gold", "fault"),
    [
        ("Two and two.\n4", "has several lines"),
        ("It is " + "4" * 1000, "has more than 1000 characters"),
        ("", "is empty"),
        (" \n", "is empty"),
    ],
)
def test_a_gold_answer_that_no_response_can_equal_is_refused(gold, fault):
    columns = Columns(question="q", answer="a")
    with pytest.raises(DataError, match=rf"row 1 \(counted from 0\): a is no final answer, it {fault}"):
        list(questions.problems(Path("f"), [{"q": "?", "a": "4"}, {"q": "?", "a": gold}], columns))


def test_gold_answers_of_one_line_are_kept_as_they_are():
    golds = [r"\frac{1}{2}", "4", "\n4\n", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "4" * 1000, "5 # 6"]
    rows = [{"q": "?", "a": gold} for gold in golds]
    assert [q.answer for q in questions.problems(Path("f"), rows, Columns(question="q", answer="a"))] == golds
    assert questions._LONGEST == equality.LONGEST


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
