"""A Slurm cluster of two nodes on this machine, from Debian's packages: GPUs that are not there, no accounting.

Its daemons have a folder, ports and a munge socket of their own. Only `slurm.conf` and `gres.conf` have to be in the
system's folder: what runs inside a job looks for them there and nowhere else.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES = ("127.0.0.2", "127.0.0.3")
"""Each has a daemon and a name that resolves everywhere. Partition `test` has the first, `both` has both."""
MARK = "# Written by T3D's tests/slurm, which remove it when they end."
SYSTEM = (Path("/etc/slurm"), Path("/etc/slurm-llnl"))
RUN = Path("/run/t3d-slurm")
GPUS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
"""To Slurm a GPU is a device file; nothing opens it. There are as many as jobs ask for at one time: with fewer, jobs
that are to run side by side wait for others."""
DAEMONS = {"slurmd": "slurmd", "slurmctld": "slurmctld", "munged": "munge"}
"""Program -> Debian's package, in the order in which they are stopped."""


def obstacle(folders: tuple[Path, ...] = SYSTEM) -> str | None:
    """Why no cluster can be started here, in one sentence that says what to do; None if nothing is in the way."""
    for folder in folders:
        for path in (folder / "slurm.conf", folder / "gres.conf"):
            if path.exists() and not path.read_text().startswith(MARK):
                return f"{path} belongs to this machine's own Slurm: run `make test-slurm` on another machine."
    if os.geteuid() != 0:
        return "`make test-slurm` starts Slurm's daemons, so it needs root."
    if missing := [package for program, package in DAEMONS.items() if shutil.which(program) is None]:
        return f"`make test-slurm` needs Debian's Slurm: apt-get install {' '.join(sorted(missing, reverse=True))}"
    return None


@contextmanager
def running() -> Iterator[None]:
    """Start the cluster, and remove every trace of it at the end."""
    # What an interrupted run left.
    _stop()
    try:
        _start()
        yield
    finally:
        _stop()


def jobs() -> list[dict[str, str]]:
    """Every job of the last five minutes, as `scontrol show job` describes it."""
    lines = _said("scontrol", "show", "job", "-o").splitlines()
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]


def _start() -> None:
    RUN.mkdir(mode=0o755)
    host = socket.gethostname().split(".")[0]
    subprocess.run(["mungekey", "-c", "-k", RUN / "munge.key"], check=True)
    munge = {"key-file": "munge.key", "socket": "socket", "pid-file": "munged.pid", "log-file": "munged.log"}
    munge |= {"seed-file": "munged.seed"}
    subprocess.run(["munged", *(f"--{option}={RUN / name}" for option, name in munge.items())], check=True)
    settings = {
        "ClusterName": "t3d-test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={RUN / 'socket'}",
        "SlurmctldPort": _free_port(),
        "StateSaveLocation": RUN / "state",
        "SlurmdSpoolDir": RUN / "spool-%n",
        "SlurmctldPidFile": RUN / "slurmctld.pid",
        "SlurmdPidFile": RUN / "slurmd-%n.pid",
        "SlurmctldLogFile": RUN / "slurmctld.log",
        "SlurmdLogFile": RUN / "slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "GresTypes": "gpu",
        # Containers seldom lend cgroups: memory is sampled, and a job over its limit is killed.
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        # As by default: a step of a nice job beside others takes seconds.
        "KillWait": 30,
        # Jobs are as nice as the command that submitted them.
        "PropagatePrioProcess": 1,
        # Of jobs that do not say how much; otherwise each of them would take the whole node.
        "DefMemPerNode": 1000,
        # More cores and memory than there are: what jobs ask for is tested, not this machine.
        "SlurmdParameters": "config_overrides",
    }
    lines = [MARK, *(f"{key}={value}" for key, value in settings.items())]
    size = f"CPUs=64 RealMemory=400000 Gres=gpu:{len(GPUS)}"
    lines += [f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} {size}" for node in NODES]
    for partition, nodes, default in (("test", NODES[:1], "YES"), ("both", NODES, "NO")):
        lines += [f"PartitionName={partition} Nodes={','.join(nodes)} Default={default} MaxTime=INFINITE State=UP"]
    SYSTEM[0].mkdir(exist_ok=True)
    (SYSTEM[0] / "slurm.conf").write_text("\n".join(lines) + "\n")
    (SYSTEM[0] / "gres.conf").write_text("\n".join([MARK, *(f"Name=gpu File={path}" for path in GPUS)]) + "\n")
    for daemon in (["slurmctld"], *(["slurmd", "-N", node] for node in NODES)):
        subprocess.run(daemon, check=True)
    for _ in range(50):
        # A node can be listed as idle before it answers; the first job would then be lost.
        with suppress(subprocess.CalledProcessError):
            _said("srun", "--partition=both", f"--nodes={len(NODES)}", "true")
            return
        time.sleep(0.2)
    raise RuntimeError(f"The cluster did not start: {(RUN / 'slurmctld.log').read_text()[-2000:]}")


def _stop() -> None:
    with suppress(subprocess.CalledProcessError, FileNotFoundError):
        # A daemon that ends before its jobs leaves their processes behind.
        for _ in range(30):
            if not (queued := _said("squeue", "--noheader", "--format=%A").split()):
                break
            subprocess.run(["scancel", *queued], check=True)
            time.sleep(0.5)
    stopped = []
    for path in (path for daemon in DAEMONS for path in RUN.glob(f"{daemon}*.pid")):
        with suppress(ValueError, psutil.NoSuchProcess):
            process = psutil.Process(int(path.read_text()))
            if process.name() in DAEMONS:
                process.terminate()
                stopped.append(process)
    _, alive = psutil.wait_procs(stopped, timeout=10)
    for process in alive:
        process.kill()
    for name in ("slurm.conf", "gres.conf"):
        path = SYSTEM[0] / name
        if path.exists() and path.read_text().startswith(MARK):
            path.unlink()
    shutil.rmtree(RUN, ignore_errors=True)


def _said(*command: str) -> str:
    # Without a limit a tool waits minutes for a daemon that is not there.
    done = subprocess.run(["timeout", "10", *command], capture_output=True, text=True, check=True)
    return done.stdout


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
