"""Prompt sets: of which questions they are drawn, and what is said of those that are left out."""

import json
from itertools import count

import pytest

from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.params import Experiment
from t3d.prompts.reader import read_prompts
from t3d.provenance import store
from tests.artefacts import made
from tests.conftest import SHIPPED

COLUMNS = {"question": "q", "answer": "a"}
ROWS = [{"q": f"What is {number} + {number}?" + " Think." * (number % 4), "a": str(number)} for number in range(40)]


@pytest.fixture
def make(tmp_path):
    """Makes a prompt set of a file of `ROWS`, or of a generator, and gives its manifest."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = {"repository": "owner/rows", "revision": "0" * 40, "local": str(tmp_path)}

    def make(lines=None, **spec):
        if lines is not None:
            (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
        of_file = {"domain": "questions", "source": "file", "columns": COLUMNS} if "domain" not in spec else {}
        experiment = Experiment(
            name="x",
            teachers={"m": {"source": "shipped", "path": str(SHIPPED)}},
            sources={"file": file | {"files": {"rows.jsonl": store.sha256(tmp_path / "rows.jsonl")}}},
            prompt_sets={"p": {"teacher": "m", "split": "train"} | of_file | spec},
        )
        return store.read(made(experiment, tmp_path / str(next(numbers)), "prompts/p"))

    numbers = count()
    return make


def lengths(manifest):
    return [len(prompt.prompt_ids) for prompt in read_prompts(manifest)]


def test_prompts_that_are_too_long_are_left_out_before_any_are_drawn(make, capsys):
    everything = make()
    assert everything.facts == {"prompts": 40}
    limit = sorted(lengths(everything))[29]
    fitting = sum(length <= limit for length in lengths(everything))
    assert 20 < fitting < 40
    capsys.readouterr()
    drawn = make(count=20, max_prompt_tokens=limit)
    assert drawn.facts == {"prompts": 20, "left_out": {f"longer than {limit} tokens": 40 - fitting}}
    said = f"prompt_sets.p: 20 prompts; left out: {40 - fitting} longer than {limit} tokens"
    assert said in capsys.readouterr().out
    assert max(lengths(drawn)) <= limit
    assert make(count=40, max_prompt_tokens=limit).facts["prompts"] == fitting


def test_a_draw_without_a_limit_is_what_it_was(make):
    """Nothing that was drawn before depends on prompts being measured first."""
    kept = [prompt.id for prompt in read_prompts(make(count=5))]
    assert kept == ["file/7", "file/10", "file/13", "file/17", "file/32"]
    assert [prompt.id for prompt in read_prompts(make(count=5, max_prompt_tokens=10_000))] == kept


def test_parts_of_a_file_share_no_question(make):
    parts = [{prompt.id for prompt in read_prompts(make(rows=rows))} for rows in ([0, 12], [12, 40])]
    assert parts[0] == {f"file/{number}" for number in range(12)}
    assert parts[0] | parts[1] == {prompt.id for prompt in read_prompts(make())}
    assert not parts[0] & parts[1]
    drawn = {prompt.id for prompt in read_prompts(make(rows=[12, 40], count=5))}
    assert len(drawn) == 5
    assert drawn < parts[1]
    with pytest.raises(DataError, match=r"params/x\.yaml, prompt_sets\.p: no prompt is left.*Change rows or split"):
        make(rows=[40, 50])
    for spec, message in (
        ({"rows": [3, 3]}, r"rows: \[3, 3\] holds no row: its first number must be below its second"),
        ({"domain": "gsm", "count": 3, "rows": [0, 2]}, "domain gsm has no rows; say how many prompts with `count`"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**spec)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "rows.jsonl holds no question. Correct the file, then write its new sha256 (sha256sum "),
        (
            ['{"q": "1?"}'],
            "rows.jsonl, line 1: no 'a'. Its columns: q. Name one of them, or add it. Correct the file, ",
        ),
        (
            ['{"q": "1?", "a": "1"}', '{"q": "2?", "a": null}'],
            "rows.jsonl, line 2: 'a' is null; every row needs one. C",
        ),
        (
            ['{"q": "1?", "a": "1"}', "", '{"q": "1? ", "a": "2"}'],
            "rows.jsonl, line 3: it asks the question of line 1, and has another answer ('2', not '1'). Leave one of "
            "them out. Correct the file, then",
        ),
    ],
    ids=["empty", "no column", "null", "two answers"],
)
def test_faults_of_a_file_of_ones_own_name_it_and_say_what_to_do(make, tmp_path, lines, said):
    with pytest.raises(DataError) as error:
        make(lines=lines, split="test")
    assert str(error.value).startswith(f"params/x.yaml, prompt_sets.p.columns: {tmp_path}/rows.jsonl")
    assert said in str(error.value)
    assert str(error.value).endswith(f"sha256sum {tmp_path}/rows.jsonl) to sources.file.files.")
    # The copy that was fetched is nothing that anybody edits.
    assert "sources/file" not in str(error.value)


def test_a_file_that_cannot_be_read_is_ones_own_too(make, tmp_path):
    with pytest.raises(CorruptArtefactError) as error:
        make(lines=['{"q": "1?", "a": "1"}', "{"])
    assert str(error.value).startswith(f"params/x.yaml, prompt_sets.p: {tmp_path}/rows.jsonl, line 2: Invalid JSON")
    assert str(error.value).count("Correct the file") == 1


def test_two_answers_to_a_question_are_a_warning_where_it_is_learned_from(make, capsys):
    lines = ['{"q": "1?", "a": "1"}', '{"q": "2?", "a": "2"}', '{"q": "1?", "a": "1"}', '{"q": "2?", "a": "3"}']
    assert make(lines=lines).facts == {"prompts": 4}
    assert "line 4: it asks the question of line 2, and has another answer ('3', not '2')." in capsys.readouterr().out
    # The same question with the same answer is asked twice, as the file says.
    assert make(lines=lines[:3], split="test").facts == {"prompts": 3}
    # Lines that are held out are not compared.
    assert make(lines=lines, split="test", rows=[0, 3]).facts["prompts"] == 3


def test_a_generator_goes_on_until_enough_problems_fit(make):
    limit = sorted(lengths(make(domain="gsm", count=12)))[6]
    short = make(domain="gsm", count=12, max_prompt_tokens=limit)
    assert len(lengths(short)) == 12
    assert max(lengths(short)) <= limit
    assert next(iter(short.facts["left_out"])) == f"longer than {limit} tokens"


def test_a_limit_that_no_prompt_keeps_is_named(make):
    with pytest.raises(DataError, match=r"prompt_sets\.p: no prompt is left. Left out: 40 longer than 3 tokens"):
        make(max_prompt_tokens=3)
    with pytest.raises(ParameterError, match=r"only 0 fitting problems of split train \(\d+ are too long\)"):
        make(domain="code", count=2, max_prompt_tokens=3)
