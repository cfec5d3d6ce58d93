"""Programs that misbehave neither pass nor hurt the run; honest ones get what they return."""

import os
import shutil
import time
from collections import Counter, defaultdict, namedtuple
from pathlib import Path

import pytest

from t3d.errors import MissingInputError, ParameterError
from t3d.evaluation import sandbox, sandboxed
from t3d.evaluation.sandbox import Limits, check_cases, judge

bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed: the code benchmark cannot be scored here"
)
LIMITS = Limits(seconds=2.0, memory_mb=256, disk_mb=4, output_kb=64)
CASES = check_cases([(2, 4), (10, 100), ([1, 2], [1, 4])])

HOSTILE = dict(
    part.split("\n", 1) for part in (Path(__file__).parent / "hostile_programs.txt").read_text().split("### ")[1:]
)
"""What it does -> the program."""

HONEST = "def f(x):\n    return [y * y for y in x] if isinstance(x, list) else x * x"


def test_there_are_many_of_them():
    assert len(HOSTILE) >= 25


@bubblewrap
@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_program_does_not_pass(source):
    started = time.monotonic()
    verdict = judge(source, "f", CASES, LIMITS)
    assert not verdict.passed
    assert len(verdict.reason) <= 200
    assert time.monotonic() - started < LIMITS.seconds + 3
    assert not os.path.exists("/usr/owned")


@bubblewrap
def test_an_honest_program_passes_after_all_of_them():
    assert judge(HONEST, "f", CASES, LIMITS) == sandbox.Verdict(True, "passed")


@bubblewrap
def test_it_sees_no_file_of_ours_and_no_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "1234")
    (tmp_path / "secret").write_text("1234")
    source = "import os\ndef f(path):\n    return [os.path.exists(path), os.environ.get('SECRET')]"
    with sandbox.Program(source, "f", LIMITS) as program:
        assert program(str(tmp_path / "secret")) == [False, None]
        assert program("/etc/passwd") == [False, None]


@bubblewrap
def test_its_own_folder_is_empty_and_writable_each_time():
    source = (
        "import os\ndef f(x):\n    before = os.listdir('/tmp')\n    open('/tmp/a', 'w').write('x')\n    return before"
    )
    for _ in range(2):
        with sandbox.Program(source, "f", LIMITS) as program:
            assert program(0) == []
            assert program(0) == ["a"]


@bubblewrap
def test_wrong_answers_say_what_is_wrong():
    assert judge("def f(x):\n    return x + x", "f", CASES, LIMITS).reason == "wrong: f(10) is 20, not 100"
    assert judge("def f(x):\n    return 1 / 0", "f", CASES, LIMITS).reason == "ZeroDivisionError: division by zero"
    assert judge("while True: pass", "f", CASES, Limits(seconds=0.5)).reason == "it took more than 0.5 s"


@bubblewrap
def test_a_check_that_stumbles_is_a_failure():
    def check(function):
        assert function(1) + 1 == 2

    assert judge("def f(x):\n    return None", "f", check, LIMITS).reason.startswith("wrong kind of value (TypeError")


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 2.5, "a", [1, [2]], (1, "b"), {1, 2}, {"a": [1], 2: (3,)}, frozenset({1}), float("inf"), 1 - 2j],
)
def test_plain_data_come_back_as_they_are(value):
    again = sandboxed.decode(sandboxed.encode(value))
    assert again == value
    assert type(again) is type(value)


def test_relatives_of_plain_data_come_back_as_what_they_are_equal_to():
    point = namedtuple("point", "x y")(1, 2)
    for value, kind in ((Counter("aab"), dict), (defaultdict(int, {1: 2}), dict), (point, tuple)):
        again = sandboxed.decode(sandboxed.encode(value))
        assert again == value
        assert type(again) is kind


def test_other_values_are_no_plain_data():
    with pytest.raises(TypeError, match="object is not plain data"):
        sandboxed.encode([object()])


def test_the_weaker_sandbox_must_be_asked_for(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        MissingInputError, match=r"no `bwrap` on this machine.*apt-get install bubblewrap.*sandbox: process"
    ):
        judge(HONEST, "f", CASES)
    assert judge(HONEST, "f", CASES, LIMITS, kind="process").passed
    assert not judge(HOSTILE["hangs"], "f", CASES, Limits(seconds=0.5), kind="process").passed
    with pytest.raises(ParameterError, match="bubblewrap or process, not 'none'"):
        judge(HONEST, "f", CASES, kind="none")
