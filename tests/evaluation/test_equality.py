"""What equals what, kind by kind: exact values, decimals, bases, case, brackets, words, units, thousands."""

from pathlib import Path

import pytest
import yaml

from t3d.evaluation.boxed import compare

PAIRS = yaml.safe_load((Path(__file__).parent / "pairs.yaml").read_text())


@pytest.mark.parametrize(("gold", "answer", "equal"), [pair for pairs in PAIRS.values() for pair in pairs], ids=str)
def test_pairs(gold, answer, equal):
    assert compare(gold, answer) == (equal, "equal" if equal else "not equal")


@pytest.mark.parametrize(
    "answer", ["5", r"\frac{1}{3}", "x^2", r"\{1,2\}", r"\text{east}", "312_5", r"\oops 3", r"\frac{1}{0}"]
)
def test_every_answer_equals_itself(answer):
    assert compare(answer, answer)[0]
    assert compare(answer, f"{answer}.")[0]
