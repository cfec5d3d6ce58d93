"""Word problems: checked equations, splits, and many phrasings of one answer."""

import re
from itertools import islice
from random import Random

import pytest

from t3d.params import Difficulty
from t3d.prompts import gsm


@pytest.fixture(scope="module")
def drawn():
    return list(islice(gsm.problems("train", seed=5), 300))


@pytest.mark.parametrize(
    ("sentence", "holds"),
    [
        ("She needs 12 * 16 = 192 brownies", True),
        ("She needs 12 * 16 = 191 brownies", False),
        ("it takes 135 clam / 15 clam/minute = 9 minutes", True),
        ("He earns $40/hour * 4 hours = $160", True),
        ("so 50 girls x 2 boys/girl = 100 boys", True),
        ("70 + 44 + 22 + T = 136 + T = 156 toys", True),
        ("Richard receives 56=56 emails", False),
        ("330 puppies / 1650 puppies * 100% = 20%", True),
        ("Jennifer = 442 points", True),
        ("he needs 150 / 20 = 7 sheets", False),
        ("8 + 2 * 3 = 14 and 14 - 20 / 4 = 9", True),
        ("that is 5 / 0 = 1", False),
    ],
)
def test_equations_are_checked(sentence, holds):
    assert gsm.equations_hold(sentence) is holds


def test_every_kept_answer_is_right(drawn):
    for problem in drawn:
        assert all(gsm.equations_hold(step) for step in problem.steps)
        assert problem.answer in "".join(problem.steps).replace(",", "")


def test_paraphrases_differ_but_keep_the_numbers_and_the_answer(drawn):
    for problem in drawn[:50]:
        texts = {gsm.paraphrase(problem, Random(i)) for i in range(20)}
        assert len(texts) == 20
        for text in texts:
            assert re.findall(r"\\boxed\{([^}]*)\}", text) == [problem.answer]
            worked = text.rsplit("\\boxed", 1)[0]
            assert re.findall(r"\d+", worked) == re.findall(r"\d+", " ".join(problem.steps))


def test_one_seed_one_text(drawn):
    problem = drawn[0]
    assert gsm.paraphrase(problem, Random(3)) == gsm.paraphrase(problem, Random(3))
    assert drawn == list(islice(gsm.problems("train", seed=5), 300))


def test_splits_share_neither_id_nor_text():
    parts = {split: list(islice(gsm.problems(split, seed=1), 60)) for split in gsm.SPLITS}
    for key in ("id", "question"):
        seen = [getattr(p, key) for problems in parts.values() for p in problems]
        assert len(seen) == len(set(seen)) == 180


def test_of_another_split_nothing_is_drawn():
    for seed in range(60):
        problem = gsm.draw_problem(seed)
        for split in gsm.SPLITS:
            assert gsm.draw_problem(seed, split) == (problem if problem and problem.split == split else None)


def test_difficulty_limits_steps_and_numbers():
    limits = Difficulty(max_steps=2, max_number=99)
    for problem in islice(gsm.problems("train", 0, limits), 40):
        assert len(problem.steps) <= 2
        numbers = re.findall(r"\d+(?:\.\d+)?", problem.question + " ".join(problem.steps))
        assert all("." not in number and int(number) <= 99 for number in numbers)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="allowed: train, validation, test"):
        next(gsm.problems("dev", 0))


def test_a_difficulty_that_nothing_meets_ends(monkeypatch):
    monkeypatch.setattr(gsm, "_BARREN", 300)
    assert list(gsm.problems("train", 0, Difficulty(max_steps=1, max_number=99))) == []
