"""How long a sandbox and a program in it live: kept and replaced, shared by threads, stopped by either clock, ended."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from t3d.sandbox.sandbox import Limits, Sandbox, check_cases
from tests.sandboxed import CASES, HONEST, HOSTILE, KINDS, LIMITS, PASSED, bubblewrap

COMPUTE = (
    "import time\ndef f(x):\n    end = time.process_time() + x\n    while time.process_time() < end: pass\n    return x"
)


@bubblewrap
def test_programs_follow_each_other_in_one_sandbox_until_one_writes_a_file(started):
    with Sandbox() as box:
        for source in (HONEST, HOSTILE["exits without cleaning up"], HOSTILE["crashes"], HOSTILE["is no Python"]) * 2:
            box.judge(source, "f", CASES, LIMITS)
        assert len(started) == 1
        box.judge("open('/tmp/x', 'w')", "f", CASES, LIMITS)
        assert box.judge(HONEST, "f", CASES, LIMITS) == PASSED
        assert len(started) == 2


@bubblewrap
def test_a_sandbox_that_died_is_replaced(started):
    with Sandbox() as box:
        assert box.judge(HONEST, "f", CASES, LIMITS) == PASSED
        for process in psutil.Process().children():
            if process.name() == "bwrap":
                process.kill()
                process.wait()
        assert box.judge(HONEST, "f", CASES, LIMITS) == PASSED
    assert len(started) == 2


@bubblewrap
def test_a_sandbox_outlives_the_thread_that_needed_it_first(started):
    with Sandbox() as box:
        for _ in range(2):
            with ThreadPoolExecutor(1) as thread:
                assert thread.submit(box.judge, HONEST, "f", CASES, LIMITS).result() == PASSED
    assert len(started) == 1


@bubblewrap
def test_threads_judge_at_once(started):
    slow = "import time\ndef f(x):\n    time.sleep(0.3)\n    return x * x"
    with Sandbox() as box, ThreadPoolExecutor(4) as threads:
        cases = check_cases([(2, 4)])
        assert list(threads.map(lambda _: box.judge(slow, "f", cases, LIMITS), range(8))) == [PASSED] * 8
    assert len(started) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_when_this_side_is_killed(kind):
    script = f"""
from t3d.sandbox.sandbox import *
with Sandbox({kind!r}) as box, box.program("def f(x):\\n    while x: pass", "f", Limits(seconds=60)) as program:
    program(0)
    print("running", flush=True)
    program(1)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"running\n"
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 2
        os.kill(process.pid, signal.SIGKILL)
    assert psutil.wait_procs(below, timeout=10)[1] == []


@bubblewrap
def test_nothing_is_left_when_it_is_closed():
    before = psutil.Process().children(recursive=True)
    with Sandbox() as box:
        assert box.judge(HONEST, "f", CASES, LIMITS) == PASSED
    assert set(psutil.Process().children(recursive=True)) == set(before)


@pytest.mark.parametrize("kind", KINDS)
def test_time_without_a_core_is_not_counted(kind):
    """The program is stopped for longer than its limit, as on a machine that is busy with others."""
    before = set(psutil.Process().children(recursive=True))
    with (
        Sandbox(kind) as box,
        ThreadPoolExecutor(1) as thread,
        box.program(COMPUTE, "f", Limits(seconds=1.0)) as program,
    ):
        call = thread.submit(program, 0.5)
        started = set(psutil.Process().children(recursive=True)) - before
        (child,) = (process for process in started if not process.children())
        child.suspend()
        time.sleep(1.5)
        assert not call.done()
        child.resume()
        assert call.result() == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_both_clocks_end_a_program_and_the_reason_says_which(kind, monkeypatch):
    with Sandbox(kind) as box:
        cases = check_cases([(9, 9)])
        sleeps = box.judge(HOSTILE["sleeps"], "f", cases, Limits(seconds=0.3))
        assert sleeps.reason == "it took more than 1.2 s of wall-clock time"
        # On a busy machine wall-clock time could be over first.
        monkeypatch.setattr(Limits, "wall_seconds", 60.0)
        assert box.judge(COMPUTE, "f", cases, Limits(seconds=0.5)).reason == "it took more than 0.5 s of CPU time"
        closes = box.judge(HOSTILE["closes its connection when called"], "f", cases, Limits(seconds=0.5))
        assert closes.reason == "it ended"
        assert box.judge(COMPUTE, "f", check_cases([(0.2, 0.2)]), Limits(seconds=0.5)) == PASSED
