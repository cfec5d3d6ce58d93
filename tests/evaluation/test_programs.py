"""HumanEval through the sandbox: the package's own solutions pass, empty ones do not."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from t3d.errors import ParameterError
from t3d.evaluation.programs import humaneval_test
from t3d.evaluation.sandbox import judge
from t3d.evaluation.scores import program_in
from t3d.prompts import humaneval

bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
PROBLEMS = list(humaneval.problems("test", 0))


def verdict(problem, text):
    test = humaneval_test(problem.answer, program_in(text))
    return judge(test.source, test.entry_point, test.check)


def test_there_are_164_and_they_are_for_testing_only():
    assert len({problem.id for problem in PROBLEMS}) == 164
    with pytest.raises(ParameterError, match="has split test only, not train"):
        next(humaneval.problems("train", 0))


@bubblewrap
def test_every_solution_of_the_package_passes_and_no_empty_one_does():
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(lambda p: verdict(p, humaneval.write_solution(p, Random(0))), PROBLEMS))
        wrong = list(pool.map(lambda p: verdict(p, "    return None\n"), PROBLEMS[:20]))
    assert [(p.id, v.reason) for p, v in zip(PROBLEMS, right, strict=True) if not v.passed] == []
    assert not any(v.passed for v in wrong)


@bubblewrap
def test_a_completion_without_the_signature_is_the_rest_of_the_prompt():
    problem = next(p for p in PROBLEMS if p.id == "HumanEval/53")
    assert json.loads(problem.answer)["entry_point"] == "add"
    assert verdict(problem, "    return x + y\n").passed
    assert not verdict(problem, "    return x - y\n").passed
