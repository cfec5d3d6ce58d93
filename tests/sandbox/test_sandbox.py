"""Programs that misbehave neither pass nor hurt the run; honest ones get what they return; none meets another."""

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from random import Random

import psutil
import pytest

from t3d.errors import MissingInputError, ParameterError
from t3d.evaluation.extraction import program_in
from t3d.evaluation.programs import code_test
from t3d.prompts import code
from t3d.sandbox import sandbox
from t3d.sandbox.sandbox import Limits, Sandbox, Verdict, check_cases

bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed: the code benchmark cannot be scored here"
)
LIMITS = Limits(seconds=1.0, memory_mb=256, output_kb=64)
CASES = check_cases([(2, 4), (10, 100), ([1, 2], [1, 4])])
PASSED = Verdict(True, "passed")

HOSTILE = dict(
    part.split("\n", 1) for part in (Path(__file__).parent / "hostile_programs.txt").read_text().split("### ")[1:]
)
"""What it does -> the program."""

HONEST = "def f(x):\n    return [y * y for y in x] if isinstance(x, list) else x * x"


@pytest.fixture(scope="module")
def box():
    with Sandbox() as kept:
        yield kept


@pytest.fixture
def started(monkeypatch):
    """The sandboxes started by a test."""
    found = []

    class Counted(sandbox.Zygote):
        def __init__(self, kind):
            super().__init__(kind)
            found.append(self)

    monkeypatch.setattr(sandbox, "Zygote", Counted)
    return found


def test_there_are_many_of_them():
    assert len(HOSTILE) >= 25


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
        # On a machine as busy as that either clock ends a program that computes.
        assert alone.result() == verdict or verdict.reason.startswith("it took more than")
    assert not os.path.exists("/usr/owned")


@bubblewrap
def test_a_kept_sandbox_and_one_per_program_give_the_same_verdicts(box):
    problems = list(islice(code.problems("train", 0), 100))
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
    assert kept[:100] == [PASSED] * 100
    assert sum(verdict.passed for verdict in kept[100:]) < 10
    assert list(verdicts(alone)) == kept


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
def test_it_sees_no_file_of_ours_and_no_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "1234")
    (tmp_path / "secret").write_text("1234")
    source = "import os\ndef f(path):\n    return [os.path.exists(path), os.environ.get('SECRET')]"
    with Sandbox() as fresh, fresh.program(source, "f", LIMITS) as program:
        assert program(str(tmp_path / "secret")) == [False, None]
        assert program("/etc/passwd") == [False, None]
        assert program("/proc/self") == [False, None]


@bubblewrap
def test_its_own_folder_is_empty_and_writable_each_time(box):
    source = (
        "import os\ndef f(x):\n    before = os.listdir('/tmp')\n    open('/tmp/a', 'w').write('x')\n    return before"
    )
    for _ in range(2):
        with box.program(source, "f", LIMITS) as program:
            assert program(0) == []
            assert program(0) == ["a"]


FILES = {
    "a file": "open('/tmp/left', 'w').write('x')",
    "a full folder": "with open('/tmp/big', 'wb') as file:\n    while True:\n        file.write(bytes(2**20))",
    "many files": "for i in range(20000):\n    open(f'/tmp/{i}', 'w')",
    "a folder that nobody may enter": "os.makedirs('/tmp/a/b/c')\nos.mkdir('/tmp/a/b/c/d', 0)",
    "a deep folder": "os.chdir('/tmp')\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
    "strange names": "os.mkdir(b'/tmp/\\xff\\n')\nos.symlink('/usr', '/tmp/-rf')",
    "a folder without permissions": "os.chmod('/tmp', 0)",
    "an access list": "os.setxattr('/tmp', 'user.left', b'x')",
    "another null device": "os.chmod('/dev/null', 0o667)",
    "shared memory": "open('/dev/shm/left', 'w').write('x')",
}
"""What a program leaves behind, or tries to."""

LOOK = """
import os
def f(x):
    seen = [os.listdir("/tmp"), os.listdir("/dev/shm"), os.stat("/tmp").st_mode, os.listxattr("/tmp")]
    seen.append(os.stat("/dev/null").st_mode)
    with open("/tmp/mine", "wb") as file:
        return [*seen, file.write(bytes(12 * 2**20))]
"""


@bubblewrap
@pytest.mark.parametrize("source", FILES.values(), ids=FILES)
def test_a_program_finds_nothing_of_the_one_before(source):
    with Sandbox() as box:
        with box.program(LOOK, "f", LIMITS) as program:
            fresh = program(0)
        assert fresh[:2] == [[], []]
        box.judge(f"import os\n{source}", "f", CASES, LIMITS)
        with box.program(LOOK, "f", LIMITS) as program:
            assert program(0) == fresh


@bubblewrap
def test_what_a_program_rewrites_is_its_own(started):
    rewrite = """
import builtins, json, os, sys
json.dumps = json.loads = builtins.len = lambda *_, **__: 4
os.environ["LEFT"] = "x"
os.chdir("/usr")
sys.modules["math"] = sys.modules["json"] = sys.modules["__main__"] = None
sys.setrecursionlimit(100)
"""
    look = (
        "import json, math, os, sys\ndef f(x):\n    return [len(x), math.sqrt(4), os.environ.get('LEFT'), os.getcwd()]"
    )
    with Sandbox() as box:
        assert not box.judge(rewrite, "f", CASES, LIMITS).passed
        with box.program(look, "f", LIMITS) as program:
            assert program([1]) == [1, 2.0, None, "/tmp"]
    assert len(started) == 1


CALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def f(name, *arguments):
    result = getattr(libc, name)(*(a.encode() if isinstance(a, str) else a for a in arguments))
    return [result, ctypes.get_errno()]
"""
REFUSED = {
    "fork": (),
    "unshare": (0x10000000,),
    "kill": (1, 0),
    "tgkill": (1, 1, 0),
    "ptrace": (16, 1, 0, 0),
    "process_vm_readv": (1, None, 0, None, 0, 0),
    "process_vm_writev": (1, None, 0, None, 0, 0),
    "prlimit": (1, 7, None, None),
    "setpriority": (0, 1, 0),
    "sched_setaffinity": (1, 8, None),
    "setsid": (),
    "shmget": (4321, 0, 0),
    "semget": (4321, 0, 0),
    "msgget": (4321, 0),
    "mq_open": ("/left", os.O_RDWR),
    "chmod": ("/dev/null", 0o666),
    "fchmod": (0, 0o666),
    "setxattr": ("/nowhere", "user.left", "x", 1, 0),
    "socket": (40, 1, 0),
}
"""Calls of libc by which a program could reach another or the machine; the arguments would do no harm."""


@pytest.mark.parametrize("kind", [pytest.param("bubblewrap", marks=bubblewrap), "process"])
def test_the_kernel_refuses_what_could_reach_another_process(kind):
    found = {}
    with Sandbox(kind) as box:
        for name, arguments in REFUSED.items():
            with box.program(CALL, "f", LIMITS) as program:
                found[name] = program(name, *arguments)
        with box.program(CALL, "f", LIMITS) as program:
            assert program("prlimit", 0, 7, None, None) == [0, 0]
    assert found == {name: [-1, errno.EPERM] for name in REFUSED}


@bubblewrap
def test_a_program_has_its_connection_and_no_thread(box):
    descriptors = """
import os, stat
def f(x):
    found = {}
    for number in range(1000):
        try:
            found[number] = stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            pass
    return found
"""
    with box.program(descriptors, "f", LIMITS) as program:
        assert program(0) == {0: False, 1: False, 2: False, 3: True, 4: True}
    thread = "import threading\ndef f(x):\n    threading.Thread(target=print).start()\n    return x * x"
    assert box.judge(thread, "f", CASES, LIMITS).reason == "RuntimeError: can't start new thread"


@bubblewrap
def test_a_signal_by_way_of_a_file_does_not_reach_the_process_that_forks(started):
    source = """
import fcntl, os, signal, socket
def f(x):
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, 0):
        ours, other = socket.socketpair()
        fcntl.fcntl(ours, fcntl.F_SETOWN, os.getppid())
        fcntl.fcntl(ours, 10, number)  # F_SETSIG
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
        other.send(b"x")
    return x * x
"""
    with Sandbox() as box:
        box.judge(source, "f", check_cases([(2, 4)]), LIMITS)
        assert box.judge(HONEST, "f", CASES, LIMITS) == PASSED
    assert len(started) == 1


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


@pytest.mark.parametrize("kind", [pytest.param("bubblewrap", marks=bubblewrap), "process"])
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


@bubblewrap
def test_wrong_answers_say_what_is_wrong(box):
    assert box.judge("def f(x):\n    return x + x", "f", CASES, LIMITS).reason == "wrong: f(10) is 20, not 100"
    assert box.judge("def f(x):\n    return 1 / 0", "f", CASES, LIMITS).reason == "ZeroDivisionError: division by zero"
    assert box.judge("while True: pass", "f", CASES, Limits(seconds=0.5)).reason.startswith("it took more")


KINDS = ["process", pytest.param("bubblewrap", marks=bubblewrap)]
COMPUTE = (
    "import time\ndef f(x):\n    end = time.process_time() + x\n    while time.process_time() < end: pass\n    return x"
)


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


def test_the_weaker_sandbox_must_be_asked_for(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        Sandbox() as box,
        pytest.raises(
            MissingInputError, match=r"no `bwrap` on this machine.*apt-get install bubblewrap.*sandbox: process"
        ),
    ):
        box.judge(HONEST, "f", CASES)
    with Sandbox("process") as box:
        assert box.judge(HONEST, "f", CASES, LIMITS).passed
        assert not box.judge(HOSTILE["hangs"], "f", CASES, Limits(seconds=0.5)).passed
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
