"""No program meets another, this side, or the machine: files, rewritten modules, system calls, signals."""

import errno
import os

import pytest

from t3d.sandbox.sandbox import Sandbox, check_cases
from tests.sandboxed import CASES, HONEST, KINDS, LIMITS, PASSED, bubblewrap


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


@pytest.mark.parametrize("kind", KINDS)
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
