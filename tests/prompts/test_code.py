"""The code problems: gold programs are right, tests are hidden in them, splits do not meet."""

import json
from itertools import islice, pairwise
from random import Random

import pytest

from t3d.evaluation.extraction import program_in
from t3d.params import Difficulty
from t3d.prompts import code


@pytest.fixture(scope="module")
def drawn():
    return [code.draw_problem(seed) for seed in range(400)]


def test_every_way_of_writing_a_solution_passes(drawn):
    for problem in drawn:
        for seed in range(4):
            namespace: dict = {}
            exec(program_in(code.write_solution(problem, Random(seed)), "f"), namespace)
            for argument, expected in problem.cases:
                found = namespace["f"](argument)
                assert (found, type(found)) == (expected, type(expected)), problem.question


def test_there_are_many_ways(drawn):
    ways = [len({code.write_solution(problem, Random(seed)) for seed in range(40)}) for problem in drawn]
    assert sum(ways) / len(ways) > 8


def test_every_question_has_tests_of_its_own(drawn):
    by_question = {problem.question: problem for problem in drawn}
    lists = [problem for problem in by_question.values() if problem.kind == "list"]
    same = sum(a.cases == b.cases for a, b in pairwise(lists))
    assert same == 0
    assert all(len(problem.cases) == 8 for problem in drawn)


def test_problems_depend_on_their_seed_alone_and_equal_questions_have_equal_tests(drawn):
    assert [code.draw_problem(seed).cases for seed in range(400)] == [problem.cases for problem in drawn]
    cases = {}
    for problem in drawn:
        assert cases.setdefault(problem.question, problem.cases) == problem.cases


def test_splits_share_no_problem():
    parts = {s: {p.id for p in islice(code.problems(s, seed=1), 200)} for s in ("train", "validation", "test")}
    assert all(len(part) == 200 for part in parts.values())
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["validation"]


def test_difficulty_limits_the_steps():
    assert all(len(p.steps) <= 2 for p in islice(code.problems("train", 0, Difficulty(max_steps=2)), 50))


def test_the_answer_is_the_hidden_tests(drawn):
    content = json.loads(drawn[0].answer)
    assert content["entry_point"] == "f"
    assert [tuple(case) for case in content["cases"]] == list(drawn[0].cases)
