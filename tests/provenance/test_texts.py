"""The archive of answers' texts: what is read from it, and what is said of one that is not as it was published."""

import lzma
import shutil

import pytest

from t3d import params
from t3d.errors import CorruptArtefactError, MissingInputError
from t3d.provenance import texts
from tests.artefacts import pack_texts
from tests.conftest import ROOT

DEMO = params.load(ROOT / "params" / "demo.yaml")
LINE = {"id": "q1", "answers": {"pocket-sdar/b8s8": "It is 7.\n\u2028é", "t3d-seed0/b8t0.9": ""}}


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_texts_are_read_by_benchmark_question_and_model():
    pack_texts("demo", {"gsm": [LINE, LINE | {"id": "q2"}, {"id": "q3", "answers": {}}], "code": []})
    assert texts.read(DEMO) == {"gsm": {"q1": LINE["answers"], "q2": LINE["answers"]}}


def test_what_the_parameters_no_longer_have_is_left_out():
    more = LINE["answers"] | {"t4d-seed0/b8s8": "no"}
    pack_texts("demo", {"chess": [LINE], "gsm": [LINE | {"answers": more}]})
    assert texts.read(DEMO) == {"gsm": {"q1": LINE["answers"]}}
    pack_texts("demo", {"chess": [LINE], "gsm": [LINE | {"answers": {"t4d-seed0/b8s8": "no"}}]})
    with pytest.raises(MissingInputError, match=r"no answer of a model to a benchmark that params/demo\.yaml has"):
        texts.read(DEMO)


@pytest.mark.parametrize("name", ["qwen", "qwen-rates", "qwen-right", "qwen-block8"])
def test_the_published_ones_are_whole(name, tmp_path):
    shutil.copytree(ROOT / "results" / name, tmp_path / "results" / name)
    found = texts.read(params.load(ROOT / "params" / f"{name}.yaml"))
    # Every answer of a benchmark was published for every question.
    assert all(len({frozenset(answers) for answers in questions.values()}) == 1 for questions in found.values())
    count = sum(len(answers) for questions in found.values() for answers in questions.values())
    assert count == {"qwen": 39728, "qwen-rates": 48955, "qwen-right": 91133, "qwen-block8": 99292}[name]


def test_without_an_archive_it_is_said():
    with pytest.raises(MissingInputError, match=r"results/demo/answers\.tar\.xz is missing: experiment demo published"):
        texts.read(DEMO)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ({"../../gsm": [LINE]}, r"is no answers/BENCHMARK\.jsonl"),
        ({"gsm": [LINE, '{"id": "q2", "answ']}, r"answers/gsm\.jsonl, line 2: Invalid JSON"),
        ({"gsm": ["7"]}, r"answers/gsm\.jsonl, line 1: "),
        ({"gsm": [{"id": "q1"}]}, r"line 1, answers: is missing"),
        ({"gsm": [LINE | {"more": 1}]}, r"line 1, more: unknown key"),
        ({"gsm": [LINE | {"answers": {"pocket-sdar/b8s8": None}}]}, r"line 1, answers\.pocket-sdar/b8s8: "),
        ({"gsm": [LINE, LINE]}, r"line 2: question 'q1' stands on another line too"),
        ({"gsm": [LINE | {"answers": {"t3d-seed0/b8s9": ""}}]}, "'t3d-seed0/b8s9' is no model and budget"),
        ({"gsm": [LINE | {"answers": {"../b8s8": ""}}]}, "is no model and budget"),
        ({"gsm": [LINE | {"answers": {"t3d-seed0/../b8s8": ""}}]}, "is no model and budget"),
    ],
)
def test_what_an_experiment_does_not_publish_is_one_sentence(lines, says):
    pack_texts("demo", lines)
    with pytest.raises(CorruptArtefactError, match=says) as caught:
        texts.read(DEMO)
    assert str(caught.value).startswith("results/demo/answers.tar.xz")
    assert str(caught.value).endswith("Restore it (git checkout results/demo/answers.tar.xz).")
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_archive_is_one_sentence(monkeypatch):
    path = pack_texts("demo", {"gsm": [LINE]})
    whole = path.read_bytes()
    with lzma.open(path) as file:
        plain = file.read()
    for content in (whole[:-20], b"no archive", lzma.compress(plain[:600]), b""):
        path.write_bytes(content)
        with pytest.raises(CorruptArtefactError, match="is not as it was published: it cannot be read"):
            texts.read(DEMO)
    # The rest of a longer file, a download that went on, the padding that the format allows and nobody here writes.
    for behind in (b"x", b"more\n" * 10_000, b"\xfd7zXZ", bytes(4), lzma.compress(b"", lzma.FORMAT_ALONE)):
        path.write_bytes(whole + behind)
        with pytest.raises(CorruptArtefactError, match=r"is not as it was published: .*: it goes on after its end\. R"):
            texts.read(DEMO)
    pack_texts("demo", {"gsm": [LINE]}, mode=0o755)
    with pytest.raises(CorruptArtefactError, match="not a plain file of mode 644"):
        texts.read(DEMO)
    monkeypatch.setattr(texts, "_MAX_BYTES", 10)
    pack_texts("demo", {"gsm": [LINE]})
    with pytest.raises(CorruptArtefactError, match="unpacks to more than 10 bytes"):
        texts.read(DEMO)
