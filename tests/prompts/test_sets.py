"""Prompt sets: of which questions they are drawn, and what is said of those that are left out."""

import json
from itertools import count

import pytest

from t3d.errors import DataError, ParameterError
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
    digest = store.sha256(tmp_path / "rows.jsonl")
    file = {"repository": "owner/rows", "revision": "0" * 40, "local": str(tmp_path), "files": {"rows.jsonl": digest}}

    def make(**spec):
        of_file = {"domain": "questions", "source": "file", "columns": COLUMNS} if "domain" not in spec else {}
        experiment = Experiment(
            name="x",
            teachers={"m": {"source": "shipped", "path": str(SHIPPED)}},
            sources={"file": file},
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
    with pytest.raises(DataError, match=r"prompt_sets\.p: no prompt is left"):
        make(rows=[40, 50])
    for spec, message in (
        ({"rows": [3, 3]}, r"rows: \[3, 3\] holds no row: its first number must be below its second"),
        ({"domain": "gsm", "count": 3, "rows": [0, 2]}, "domain gsm has no rows; say how many prompts with `count`"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**spec)


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
