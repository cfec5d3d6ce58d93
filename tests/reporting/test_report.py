"""The report: what it holds, that it needs nothing but itself, and what it says of what is missing."""

import json
import re
import shutil
import zlib
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from t3d.errors import MissingInputError
from t3d.reporting import page
from t3d.reporting.page import setup
from t3d.reporting.view import Cell, View
from tests.artefacts import pack_texts
from tests.reporting import helpers, pages

OUT = Path("results", "report.html")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The folder of the tiny project, and its experiment."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, pages.write_project(folder)


@pytest.fixture
def made(project, tmp_path, monkeypatch):
    """The experiment of a tiny project of the test's own, which is the working directory."""
    folder, experiment = project
    shutil.copytree(folder, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return experiment


def report(made):
    page.write(made, OUT)
    return OUT.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def data(text, name):
    return json.loads(re.search(rf'id="{name}">(.*?)</script>', text, flags=re.DOTALL)[1])


NOTE = '<p class="note">Verdicts come with t3d pull scores --experiment tiny.</p>'


def test_every_number_of_a_table_is_shown_with_its_interval(made):
    text = report(made)
    for row in pages.cells().itertuples():
        assert f'<span class="value">{row.accuracy:.1f}</span>' in text
        if not pd.isna(row.low):
            assert f"[{row.low:.1f}, {row.high:.1f}]" in text
            assert f"95 % interval {row.low:.1f} to {row.high:.1f}, 8 questions" in text
        if not pd.isna(row.relative_change):
            # Points: a percentage of a small base says too much.
            assert f"<td>{row.difference:+.1f}</td>".replace("-", "\N{MINUS SIGN}") in text
            assert f"{row.relative_change:+.1f} %" not in text


def test_a_table_with_a_base_shows_differences_from_it(made):
    table = made.tables["accuracy"].model_copy(update={"base": "teacher"})
    text = report(made.model_copy(update={"tables": {"accuracy": table}}))
    student = pages.cells().query("method != 'Original' and benchmark != 'average'").iloc[0]
    assert f'<span class="interval">(+{student.difference:.1f} [' in text


def test_downloads_are_the_files(made):
    links = {a["download"]: a["href"] for tag, a in Elements(report(made)).found if tag == "a" and "download" in a}
    for suffix in ("csv", "tex", "md"):
        content = Path(f"results/tiny/accuracy.{suffix}").read_bytes()
        assert b64decode(links[f"tiny-accuracy.{suffix}"].partition("base64,")[2]) == content


def test_it_fetches_nothing(made):
    text = report(made)
    for tag, attributes in Elements(text).found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")) or (tag == "a" and name == "href"), (tag, attributes)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    assert "default-src 'none'" in text


def test_labels_and_questions_are_text_not_markup(made):
    text = report(made)
    assert "<b>&" not in text
    assert "<script>alert" not in text
    assert pages.LABEL in unescape(text)
    questions = data(text, "answers-data")["benchmarks"]["gsm"]["questions"]
    assert questions[3] == {"id": "gsm-3", "text": f"3. {pages.QUESTION}", "expected": "42"}


def test_every_table_has_headers_and_a_caption(made):
    found = [tag for tag, _ in Elements(report(made)).found]
    assert found.count("table") == found.count("caption") >= 4
    assert all("scope" in attributes for tag, attributes in Elements(report(made)).found if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in Elements(report(made)).found if tag == "img")


def test_a_cell_names_everything_it_was_made_from(made):
    provenance = data(report(made), "provenance-data")
    cell = provenance["cells"]["t3d/gsm/b8s4"]
    assert cell["accuracy"] == 87.5
    assert set(cell["chains"]) == {"t3d-seed0", "t3d-seed1"}
    chain = [provenance["artefacts"][number] for number in cell["chains"]["t3d-seed0"]]
    assert [origin["artefact"] for origin in chain[:2]] == ["scores/t3d-seed0/gsm/b8s4", "answers/t3d-seed0/gsm/b8s4"]
    assert all(re.fullmatch("[0-9a-f]{64}", origin["manifest"]) for origin in chain[:2])
    assert chain[0]["device"] == "cpu"
    # A button for every number; an average is made from all its cells.
    buttons = [a["data-cells"].split() for tag, a in Elements(report(made)).found if "data-cells" in a]
    assert ["t3d/gsm/b8s4"] in buttons
    assert {cell for cells in buttons for cell in cells} == set(provenance["cells"])


def test_answers_whose_scores_are_not_here_have_no_verdict(made):
    """Not even where a manifest is here without its verdicts."""
    assert all("right" in entry for entry in data(report(made), "answers-data")["answers"]["1/gsm/b8s4"])
    Path("data/tiny/scores/t3d-seed0/gsm/b8s4.parquet").unlink()
    found = data(report(made), "answers-data")["answers"]
    assert {key for key, entries in found.items() if "right" not in entries[0]} == {"1/gsm/b8s4"}
    pages.remove("scores")
    text = report(made)
    found = data(text, "answers-data")["answers"]
    assert not any("right" in entry for entries in found.values() for entry in entries)
    assert {entry["finish"] for entry in found["1/gsm/b8s4"]} == {"stop"}
    assert "Verdicts come with" not in text
    Path("results/tiny/published.sha256").write_text(f"{'0' * 64}  data/tiny/scores/teacher/gsm/b4s2.manifest.json\n")
    assert NOTE in report(made)


def test_a_table_of_other_scores_is_said_to_be_outdated(made):
    assert "the table was made from others" not in report(made)
    csv = Path("results/tiny/accuracy.csv")
    csv.write_text(csv.read_text().replace("87.5", "75"))
    text = report(made)
    assert "1 of its accuracies are not those of the scores that are here" in text.replace("\n", " ")


def test_answers_are_packed_as_they_were_recorded(made):
    answers = data(report(made), "answers-data")
    assert answers["models"] == ["Original", pages.LABEL]
    entry = answers["answers"]["1/gsm/b8s4"][5]
    expected = pages.answer("t3d-seed0", "b8s4", 5)
    packed = np.frombuffer(b64decode(entry["packed"]), dtype=[("token", "<u2"), ("step", "u1"), ("sure", "u1")])
    assert [answers["tokens"][number] for number in packed["token"]] == expected.texts
    assert packed["step"].tolist() == expected.steps
    assert packed["sure"][0] == round(255 * (0.5 + expected.steps[0] / 100))
    assert {answers["tokens"][number] for number in answers["special"]} == {"<|im_end|>", "<|endoftext|>"}
    right = [entry["right"] for entry in answers["answers"]["1/gsm/b8s4"]]
    assert right == [letter == "1" for letter in helpers.ANSWERS["t3d-seed0", "b8s4"]]


def test_costs_are_those_of_the_receipts(made):
    text = report(made)
    row = re.search(r'<tr><th scope="row">answer</th>(.*?)</tr>', text, flags=re.DOTALL)[1]
    # Three models, three budgets.
    assert re.findall(r"<td>(.*?)</td>", row)[0] == "9"
    # A score's receipt repeats the speed of its answers, which is no cost of scoring.
    assert Path("data/tiny/scores/teacher/gsm/b8s4.receipt.json").read_text().count("tokens_per_second") == 1
    scored = re.search(r'<tr><th scope="row">score</th>(.*?)</tr>', text, flags=re.DOTALL)[1]
    assert re.findall(r"<td>(.*?)</td>", scored)[-2:] == ["–", "cpu"]


def test_it_opens_with_a_sentence_of_result_the_figure_and_the_table(made):
    text = report(made)
    average = pages.cells().query("benchmark == 'average'").set_index(["tokens_per_step", "method"])["accuracy"]
    ours, base = ([f"{average[tokens, method]:.1f}" for tokens in (2, 8)] for method in (pages.LABEL, "Original"))
    said = f"at 2 and 8 tokens per step: {pages.LABEL} ({' and '.join(ours)} %), Original ({' and '.join(base)} %)."
    assert said in unescape(text)
    order = [text.index(part) for part in ('class="result"', 'id="figure-accuracy"', 'id="accuracy"', 'id="run"')]
    assert order == sorted(order)
    assert "not from this run" not in text


def test_it_opens_with_table_1_where_several_tables_could_be_first(made):
    content = made.model_dump(mode="json", exclude_unset=True)
    content["tables"] = {"tuning": content["tables"]["accuracy"], "table1": content["tables"]["accuracy"]}
    both = type(made).model_validate(content)
    assert page._main(both, ["tuning", "table1"]) is both.tables["table1"]


def test_one_token_per_step_is_singular():
    groups = [(("1",), [("T3D", (Cell("24.1"),))])]
    view = View("tuning", "", ("Tokens per step",), ("Average",), groups, note="")
    assert "at 1 token per step: T3D (24.1 %)" in page._result(view)


def test_what_students_have_in_common_is_said_once(made):
    content = made.model_dump(mode="json", exclude_unset=True)
    content["students"]["other"] = content["students"]["t3d"] | {"label": "Other", "objective": {"name": "ddo"}}
    content["tables"]["accuracy"]["students"] = ["t3d", "other"]
    both = type(made).model_validate(content)
    found = setup.described(both, both.tables.values())["students"]
    assert "steps 2, batch size 2" in found.common
    assert "seeds: 0, 1" in found.common
    assert [list(row) for row in found.rows] == [["Student", "Key", "Objective"]] * 2
    assert [row["Objective"] for row in found.rows] == ["t3d, path weight 0.2", "ddo"]


def test_equal_files_give_equal_bytes(made):
    assert report(made) == report(made)


def test_without_answers_it_says_how_to_get_them(made):
    pages.remove("answers")
    text = report(made)
    assert "no recorded answers of experiment tiny are here" in text
    assert "snakemake --cores all --config experiment=tiny" in text
    # Nothing was pushed that could be fetched.
    assert "t3d pull" not in text
    assert 'id="viewer"' not in text
    assert '<span class="value">87.5</span>' in text


def unpacked(found):
    return json.loads(zlib.decompress(b64decode(found["packed"])))


def test_where_texts_alone_were_published_they_are_shown_with_their_verdicts(made):
    before = len(report(made))
    pages.publish_texts("</script>")
    text = report(made)
    assert 'id="viewer"' not in text
    assert 'href="#trajectories"' not in text
    assert "Not shown" not in text
    assert len(text) < before
    found = data(text, "texts-data")
    assert found["rows"] == ["Original", pages.LABEL]
    # Blocks of 4 and of 8: names say which.
    names = ["1 token per step, blocks of 8", "2 tokens per step, blocks of 4", "2 tokens per step, blocks of 8"]
    assert found["budgets"] == [*names, "8 tokens per step, blocks of 8"]
    # At one token per step nothing is scored, so that nothing is known to be lost.
    (column,) = found["columns"]
    assert column == {"label": "GSM_100%", "chosen": "the first 8 of 8 questions", "why": ""}
    questions = unpacked(found)
    assert [asks["id"] for asks in questions] == [f"gsm-{i}" for i in range(8)]
    assert (questions[3]["text"], questions[3]["expected"]) == (f"3. {pages.QUESTION}", "42")
    assert questions[3]["answers"] == {
        "0/0": ["slowly gsm-3", None],
        "0/1": ["teacher/b4s2 says 3</script>", False],
        "0/2": ["teacher/b8s4 says 3</script>", False],
        "0/3": ["teacher/b8s1 says 3</script>", False],
        "1/1": ["t3d-seed0/b4s2 says 3</script>", True],
        "1/2": ["t3d-seed0/b8s4 says 3</script>", True],
        "1/3": ["t3d-seed0/b8s1 says 3</script>", False],
    }
    assert report(made) == text


def test_texts_are_of_questions_that_the_teacher_loses_with_fewer_steps(made):
    # The teacher's verdicts: 11100000 at b4s2, 10000000 at b8s1.
    pages.publish_texts()
    lines = [{"id": f"gsm-{i}", "answers": {"teacher/b4s2": "a", "teacher/b8s1": "b"}} for i in range(8)]
    pack_texts("tiny", {"gsm": lines})
    found = data(report(made), "texts-data")
    assert [asks["id"] for asks in unpacked(found)] == ["gsm-1", "gsm-2"]
    assert found["columns"][0]["chosen"].startswith(
        "the first 2 of 2 questions that Original answers right at 2 tokens"
    )
    # Without verdicts, the first ones.
    pages.remove("scores")
    found = data(report(made), "texts-data")
    assert len(unpacked(found)) == 8
    assert unpacked(found)[0]["answers"]["0/0"] == ["a", None]
    assert "Verdicts come with" not in report(made)
    # Where an archive has their scores, the page says how to get them.
    Path("results/tiny/published.sha256").write_text(f"{'0' * 64}  data/tiny/scores/teacher/gsm/b4s2.manifest.json\n")
    assert NOTE in report(made)


def test_texts_are_shown_without_their_questions_and_bad_archives_are_named(made):
    pages.publish_texts()
    Path("data/tiny/prompts/ask.jsonl").unlink()
    limited = made.prompt_sets["ask"].model_copy(update={"max_prompt_tokens": 100})
    unknown = made.model_copy(update={"prompt_sets": made.prompt_sets | {"ask": limited}})
    page.write(unknown, OUT)
    found = data(OUT.read_text(), "texts-data")
    assert "only a tokenizer knows which of its questions fit" in found["columns"][0]["why"]
    assert unpacked(found)[3]["text"] is None
    path = pack_texts("tiny", {"gsm": ["{"]})
    assert "answers/gsm.jsonl, line 1: Invalid JSON" in unescape(report(made))
    pack_texts("tiny", {"gsm": [{"id": "gsm-0", "answers": {"t3d-seed1/b8s4": "x"}}]})
    assert "has no text of an answer of the table's rows" in unescape(report(made))
    path.unlink()
    assert "no recorded answers of experiment tiny are here" in report(made)


def test_without_any_data_tables_and_figures_are_still_shown(made):
    for kind in ("answers", "scores", "students", "teachers", "prompts"):
        pages.remove(kind)
    text = report(made)
    assert '<span class="value">87.5</span>' in text
    assert "data:image/png;base64," in text
    assert "is missing" in data(text, "provenance-data")["cells"]["t3d/gsm/b8s4"]["missing"]
    # Costs have no rows of what nothing is known of, and products say where they come from.
    assert '<th scope="row">score</th>' not in text
    assert text.count("From the repository, not from this run</b>: 9 of the 9 artefacts") == 2


def test_an_answer_of_other_parameters_is_not_shown(made):
    changed = made.model_copy(update={"seed": 1})
    page.write(changed, OUT)
    text = OUT.read_text()
    assert "made with other parameters" in text
    assert 'id="viewer"' not in text


@pytest.mark.parametrize(("before", "after"), [("Original,", "Teacher,"), (",8,,8,gsm,", ",16,,8,gsm,")])
def test_a_table_that_does_not_fit_the_experiment_is_not_shown(made, before, after):
    csv = Path("results/tiny/accuracy.csv")
    assert before in csv.read_text()
    csv.write_text(csv.read_text().replace(before, after))
    text = report(made)
    assert "results/tiny/accuracy.csv does not fit tables.accuracy of params/tiny.yaml" in text
    assert 'class="numbers"' not in text


def test_without_a_table_it_is_refused(made):
    Path("results/tiny/accuracy.csv").unlink()
    with pytest.raises(MissingInputError, match="holds no table: make one first"):
        page.write(made, OUT)
    assert not OUT.exists()
