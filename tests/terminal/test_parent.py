"""Jobs as children of one process: they do what processes of their own do, and nothing outlives what it belongs to."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from t3d.terminal import client, parent
from tests.started import error_of, wait_for

CLIENT = [sys.executable, "-c", "from t3d.terminal.client import main; main()"]
ALONE = 2
"""Status of a client that did its job itself: `do` is no verb of `t3d`."""
PID = "import os; print(os.getpid(), flush=True); "


def is_there(pid):
    """Whether a process lives; one that has ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Run:
    """What stands for a run of Snakemake: its parent, and clients. A job's arguments are a program in Python."""

    def __init__(self, folder, loads=(), uses_gpu="parent._uses_gpu"):
        program = (
            "import sys; from types import SimpleNamespace; from t3d.terminal import child, parent;"
            f"parent.LOADED = {{'do': {loads}, 'else': ()}}; parent._uses_gpu = {uses_gpu};"
            "parent._BESIDE, child.STAYS = {'else'}, {'do': '--model'};"
            "sys.modules['t3d.cli'] = SimpleNamespace(main=lambda: exec(sys.argv[2], {}));"
            "child.job(parent.serve())"
        )
        name = f"t3d-test-{os.getpid()}-{time.monotonic_ns()}"
        self.folder = folder
        self.environment = {**os.environ, client.ADDRESS: name, **dict.fromkeys(parent._THREADS, "1")}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("\0" + name)
            listener.listen(128)
            # Not forked from the tests' own process: that has threads, whose locks a fork would inherit.
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, str(listener.fileno())],
                env=self.environment,
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,
            )
        self.parent = self.process.pid

    def ask(self, program, *words, verb="do", **environment):
        return subprocess.Popen(
            [*CLIENT, verb, program, *words],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def started(self, program):
        """A client whose child runs, and the child's process."""
        asked = self.ask(PID + program)
        return asked, int(asked.stdout.readline())

    def end(self):
        """Snakemake is gone."""
        self.process.stdin.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
        self.process.wait()


@pytest.fixture
def run(tmp_path):
    # A shell starts what runs in its background with this signal ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Run(tmp_path) as found:
        yield found


def said(asked, given=""):
    out, errors = asked.communicate(given, timeout=60)
    return asked.returncode, out, errors


def test_a_child_has_the_arguments_folder_environment_and_files_of_its_job(run):
    program = (
        "import json, os, sys; print(json.dumps([sys.argv[1], os.getcwd(), os.environ['TMPDIR'], os.environ.get('X'),"
        " sys.stdin.read(), os.getsid(0) == os.getpid(), os.environ['OMP_NUM_THREADS']]));"
        " print('told', file=sys.stderr); sys.exit(3)"
    )
    status, out, errors = said(run.ask(program, TMPDIR="/elsewhere"), "given")
    assert (status, errors) == (3, "told\n")
    assert json.loads(out) == ["do", str(run.folder), "/elsewhere", None, "given", True, "1"]


@pytest.mark.parametrize(
    ("program", "status", "errors"),
    [
        ("pass", 0, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import atexit, sys; atexit.register(print, 'late', file=sys.stderr)", 0, "late\n"),
    ],
)
def test_a_job_ends_as_a_process_of_its_own_would(run, program, status, errors):
    end, _, told = said(run.ask(program))
    assert end == status
    assert errors in told if errors else not told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_heard_to_the_end(run, number):
    listens = f"import signal, sys, time; signal.signal({int(number)}, lambda *_: sys.exit(7)); print(1, flush=True); "
    asked, _ = run.started(listens + "time.sleep(60)")
    asked.stdout.readline()
    asked.send_signal(number)
    assert said(asked)[0] == 7


def test_signals_do_what_they_do_to_a_process_unless_it_ignores_them(run):
    asked, child = run.started("import time; time.sleep(60)")
    asked.terminate()
    assert said(asked)[0] == -signal.SIGTERM
    assert not is_there(child)


def test_a_client_that_is_killed_takes_its_child_and_what_that_started_along(run):
    starts = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    asked, child = run.started(starts)
    grandchild = int(asked.stdout.readline())
    asked.kill()
    asked.wait()
    wait_for(lambda: not is_there(child) and not is_there(grandchild), 10)


def test_without_its_parent_a_job_begins_again_alone(run):
    asked, child = run.started("import time; time.sleep(60)")
    os.kill(run.parent, signal.SIGKILL)
    status, _, errors = said(asked)
    assert status == ALONE
    assert client.LOST in errors
    wait_for(lambda: not is_there(child), 10)
    assert said(run.ask("pass"))[0] == ALONE


def test_the_parent_ends_with_snakemake_and_after_its_last_child(run):
    asked, _ = run.started("input(); print('done')")
    # A scheduler ends every process of a job: the parent waits for its children.
    os.kill(run.parent, signal.SIGTERM)
    run.end()
    wait_for(lambda: said(run.ask("pass"))[0] == ALONE, 20)
    assert said(asked, "go\n")[:2] == (0, "done\n")
    wait_for(lambda: not is_there(run.parent), 10)


def test_eight_jobs_at_once_are_not_mixed_up(run):
    asked = [run.ask(f"import sys, time; time.sleep(0.2); print({n}); sys.exit({n})") for n in range(8)]
    assert [said(one)[:2] for one in asked] == [(n, f"{n}\n") for n in range(8)]


def of(run, model, program="", **environment):
    """The process that did a job of a model, and how long the job says that the process had lived."""
    begun = "from t3d.provenance import environment; print(round(environment.begin().since_start, 1), flush=True); "
    status, out, errors = said(run.ask(PID + begun + program, "--model", model, **environment))
    assert (status, errors) == (0, "")
    number, lived = out.split()
    return int(number), float(lived)


def test_a_child_stays_with_its_model_and_does_its_next_jobs(run):
    first, _ = of(run, "m", "import time; time.sleep(2)")
    assert is_there(first)
    again, lived = of(run, "m")
    assert again == first
    assert lived < 1.5
    assert of(run, "m", TMPDIR="/elsewhere")[0] != first
    other, _ = of(run, "other")
    assert other != first
    assert of(run, "m")[0] == first
    # As in a process of its own: a signal ends it, and who asks next gets another.
    alone, child = run.started("import time; time.sleep(60)")
    asked = run.ask(PID + "import time; time.sleep(60)", "--model", "m")
    assert int(asked.stdout.readline()) == first
    asked.terminate()
    assert said(asked)[0] == -signal.SIGTERM
    assert of(run, "m")[0] not in (first, other, child)
    # The parent ends after its last child.
    alone.terminate()
    assert said(alone)[0] == -signal.SIGTERM


def test_a_child_that_failed_or_was_killed_while_it_waited_is_not_asked_again(run):
    failed = run.ask(PID + "raise SystemExit(3)", "--model", "m")
    status, number, _ = said(failed)
    assert status == 3
    waits, _ = of(run, "m")
    assert waits != int(number)
    os.kill(waits, signal.SIGKILL)
    wait_for(lambda: not is_there(waits), 10)
    assert of(run, "m")[0] != waits


def test_a_child_that_has_started_something_that_goes_on_does_not_stay(run):
    started, _ = of(run, "m", "import subprocess; subprocess.Popen(['sleep', '5'], stdout=-3, stderr=-3)")
    assert of(run, "m")[0] != started
    ended, _ = of(run, "other", "import subprocess; subprocess.Popen(['true'], stdout=-3, stderr=-3).wait()")
    assert of(run, "other")[0] == ended


def test_as_many_models_wait_as_there_is_room_for(run):
    waiting = [of(run, f"m{n}")[0] for n in range(parent._MOST_WAITING + 2)]
    assert [is_there(number) for number in waiting] == [False, *[True] * (parent._MOST_WAITING + 1)]
    run.end()
    wait_for(lambda: not any(map(is_there, [*waiting, run.parent])), 10)


def test_a_child_on_a_gpu_waits_beside_scores_but_beside_no_other_model(tmp_path):
    with Run(tmp_path, uses_gpu="lambda process: process != 'self'") as run:
        first, _ = of(run, "m")
        assert said(run.ask("pass", verb="else"))[0] == 0
        assert of(run, "m")[0] == first
        of(run, "other")
        assert not is_there(first)


def test_a_file_that_is_closed_while_files_are_listed_hides_no_gpu(monkeypatch):
    monkeypatch.setattr(os, "readlink", Mock(side_effect=["/dev/null", FileNotFoundError, "/dev/nvidia0"]))
    assert parent._uses_gpu("self")


def test_another_environment_is_served_by_a_process_of_its_own(run):
    assert said(run.ask("pass", HF_HOME="/elsewhere"))[0] == ALONE


@pytest.mark.parametrize("change", ["prefix", "verb", "user"])
def test_what_would_differ_from_a_process_of_its_own_is_refused(run, change, monkeypatch):
    request = {"argv": ["t3d", "do", "pass"], "cwd": "/", "environment": run.environment, "prefix": sys.prefix}
    request |= {"prefix": {"prefix": "/other"}, "verb": {"argv": ["t3d", "status"]}, "user": {}}[change]
    monkeypatch.setattr(parent, "LOADED", {"do": ()})
    monkeypatch.setattr(os, "environ", run.environment)
    own = parent._Own()
    assert not own.can_do({} if change == "user" else request)


def test_a_file_of_the_code_that_was_changed_is_not_served_by_what_was_loaded_before(run, monkeypatch):
    monkeypatch.setattr(parent, "LOADED", {"do": ()})
    monkeypatch.setattr(os, "environ", run.environment)
    request = {"argv": ["t3d", "do"], "environment": run.environment, "prefix": sys.prefix}
    own = parent._Own()
    assert own.can_do(request)
    own.code[0] = (own.code[0][0], own.code[0][1] - 1)
    assert not own.can_do(request)


def test_a_stranger_hears_no(run, monkeypatch):
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(client, "peer", lambda _: os.getuid() + 1)
    socket.send_fds(ours, [b"\x02\0\0\0{}"], [0, 1, 2])
    assert client.received(theirs, 1.0) == ({}, [])


def test_nonsense_is_no_request():
    ours, theirs = socket.socketpair()
    ours.send(b"GET /")
    ours.close()
    assert error_of(client.received, theirs, 1.0) is None
    assert client.received(theirs, 1.0)[0] == {}


@pytest.mark.parametrize("loads", [(), ("torch",)])
def test_a_child_has_as_many_threads_as_its_job(loads, tmp_path):
    counts = "import sys; print('torch' in sys.modules); import torch; print(torch.get_num_threads())"
    with Run(tmp_path, loads) as run:
        assert said(run.ask(counts, **dict.fromkeys(parent._THREADS, "2")))[1] == f"{bool(loads)}\n2\n"
        assert said(run.ask(counts))[1] == f"{bool(loads)}\n1\n"


def test_the_parent_starts_with_the_first_job_and_is_waited_for(tmp_path):
    """The process that offers one stands for Snakemake; the job is a real verb, whose modules are loaded."""
    program = (
        "import os, subprocess, sys; from t3d.terminal import client, parent; parent.offer();"
        "job = [sys.executable, '-c', 'from t3d.terminal.client import main; main()', 'teacher'];"
        "environment = os.environ | dict.fromkeys(parent._THREADS, '1');"
        "print(subprocess.run(job, env=environment).returncode, os.environ[client.ADDRESS])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    status, name = done.stdout.split()
    assert status == "2"
    assert "Missing option '--experiment'" in done.stderr
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect("\0" + name)


def test_a_run_offers_one_name(monkeypatch):
    monkeypatch.setattr(parent.threading, "Thread", lambda **given: SimpleNamespace(start=lambda: None))
    monkeypatch.setenv(client.ADDRESS, "of an outer run")
    parent.offer.cache_clear()
    parent.offer()
    first = os.environ[client.ADDRESS]
    parent.offer()
    assert os.environ[client.ADDRESS] == first != "of an outer run"
    parent.offer.cache_clear()
