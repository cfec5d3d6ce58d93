"""`benchmarks/train.py`: every way of taking a step learns the same."""

import json

import pytest

from benchmarks import train


def test_all_ways_have_the_same_loss(tmp_path, capsys):
    out = tmp_path / "train.json"
    lengths = ["--prompt", "11", "--shortest", "8", "--response", "16"]
    train.main(["--sizes", "tiny", "--batch", "2", "--micro", "1", "--steps", "1", *lengths, "--out", str(out)])
    found = json.loads(out.read_text())
    assert [row["way"] for row in found["rows"]] == [way.name for way in train.WAYS]
    for row in found["rows"]:
        assert row["loss"] == pytest.approx(found["rows"][0]["loss"], abs=1e-5)
        assert row["tokens_per_second"] > 0
    assert "plain" in capsys.readouterr().out


def test_a_padded_row_is_as_long_as_the_longest_of_the_data_set():
    examples = train.random_rollouts(8, prompt=11, shortest=8, longest=40, vocabulary=90)
    setting = train.setting_of(examples, 4, 2, 3, 97, "cpu", train.WAYS[0], "t3d")
    batch = next(iter(train.micro_batches(setting, 0)))
    real, noisy, masked, _, may_see = train.pad(batch, setting)
    assert real.shape == (2, 51)
    assert may_see.shape == (2, 102, 102)
    assert (real != noisy).logical_and(~masked).sum() == 0
    assert masked.sum() == batch.masked.sum()


def test_ways_that_an_objective_does_not_have_are_refused(capsys):
    for given in (["--objective", "redi"], ["--ways", "3", str(len(train.WAYS))], ["--ways", "-1"]):
        with pytest.raises(SystemExit):
            train.main(["--sizes", "tiny", *given])
        assert "redi has those from 4 on" in capsys.readouterr().err
