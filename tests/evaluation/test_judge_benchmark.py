"""`benchmarks/judge.py`: both ways judge the same programs, and keeping sandboxes pays."""

import json

import pytest

from benchmarks import judge
from t3d.sandbox.sandbox import Verdict


def test_it_measures_both_ways(tmp_path, capsys):
    out = tmp_path / "judge.json"
    judge.main(["--programs", "20", "--threads", "1", "--kind", "process", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["threads"] == 1
    assert row["ratio"] == pytest.approx(row["kept"] / row["each"])
    assert row["ratio"] > 1
    assert "ratio" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit):
        judge.main(["--out", str(tmp_path / "nowhere" / "judge.json")])
    assert "there is no folder" in capsys.readouterr().err


def test_programs_that_do_not_pass_are_no_measurement():
    with pytest.raises(RuntimeError, match="4 of 4 right programs did not pass: it ended"):
        judge.measure(lambda _: Verdict(False, "it ended"), judge.gold_tests(4), 2)
