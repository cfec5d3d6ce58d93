"""Programs that look for more than a sandbox gives gain nothing, and what they do does not reach the next program."""

from contextlib import suppress
from pathlib import Path

import pytest

from t3d.sandbox.sandbox import Limits, ProgramFailed
from tests.sandboxed import bubblewrap

pytestmark = bubblewrap
LIMITS = Limits(seconds=5.0)


def programs(name):
    text = (Path(__file__).parents[1] / "faults" / name).read_text()
    return dict(part.split("\n", 1) for part in text.split("### ")[1:])


GAINS = programs("sandbox_gains.txt")
"""What it tries to get -> a program that returns what it got."""

LEAVES = programs("sandbox_leaves.txt")
"""What it leaves behind, or tries to -> the program."""

LOOK = """
import builtins, os, random, resource, signal, socket, sys, threading
def f(x):
    found = [os.getpid(), threading.get_native_id(), os.getcwd(), socket.gethostname(), dict(os.environ), os.umask(0)]
    found += [os.get_blocking(3), hasattr(builtins, "left"), sys.get_int_max_str_digits(), random.random()]
    found += [signal.pthread_sigmask(signal.SIG_BLOCK, []), [str(signal.getsignal(n)) for n in range(1, 32)]]
    found += [resource.getrlimit(getattr(resource, n)) for n in sorted(dir(resource)) if n.startswith("RLIMIT_")]
    for path in ("/", "/tmp", "/dev", "/dev/shm", "/dev/pts", *("/dev/" + n for n in sorted(os.listdir("/dev")))):
        try:
            s = os.stat(path)
            own = path in ("/", "/dev", "/dev/pts", "/dev/ptmx", "/dev/shm", "/tmp")
            times = [] if own else [s.st_mtime_ns, s.st_ctime_ns]
            found.append([path, s.st_mode, s.st_uid, s.st_nlink, times, s.st_atime_ns <= s.st_mtime_ns if own else 0])
        except OSError as error:
            found.append([path, error.errno])
    # Last, since it is seen.
    found += [os.listdir("/tmp"), os.listdir("/dev/shm"), os.listxattr("/tmp")]
    return repr(found)
"""


def value(box, source):
    with box.program(source, "f", LIMITS) as program:
        return program(0)


@pytest.mark.parametrize("source", GAINS.values(), ids=GAINS)
def test_a_program_gains_nothing(source, box):
    assert not value(box, source)


@pytest.mark.parametrize("source", LEAVES.values(), ids=LEAVES)
def test_a_program_sees_nothing_of_the_one_before(source, box):
    before = value(box, LOOK)
    with suppress(ProgramFailed):
        value(box, source)
    assert value(box, LOOK) == before
