"""Start the processes that do one job together: `t3d distill --processes N` becomes N of itself, and so does decoding.

On one node this process becomes accelerate's launcher. In a Slurm job of several nodes it becomes `srun`, which starts
one launcher per node: the same line again, with the meeting place in `T3D_RENDEZVOUS`. `collectives.py` is what the
processes then tell each other. `make test-slurm` runs the `srun` line on two nodes, which are daemons of one machine.
Over a network, and with NCCL between hosts, it has not been run.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from t3d.errors import ParameterError, ProcessError

if TYPE_CHECKING:
    from t3d.distributed.gpus import Experiment

# Given in full, and the only one: `accelerate launch` otherwise reads what the user once told `accelerate config`.
CONFIG = Path(__file__).with_name("accelerate.yaml")
RENDEZVOUS, NODES = "T3D_RENDEZVOUS", "T3D_NODES"
_TERMINATED = 128 + signal.SIGTERM


def done_by_several(experiment: "Experiment", field: str, processes: int | None) -> bool:
    """Start the processes that do this verb together, and see it done; False if this one is to do it.

    Args:
        experiment: whose `field` is their number, unless it is given.
        field: `training_processes` or `decoding_processes`.
        processes: their number on the command line.
    """
    processes = processes or getattr(experiment, field)
    if processes == 1:
        return False
    from t3d.distributed.collectives import is_one_of_several

    if is_one_of_several():
        return False
    launch(experiment, field, processes, sys.argv[1:])
    return True


def launch(experiment: "Experiment", field: str, processes: int, arguments: Sequence[str]) -> None:
    """Run `t3d <arguments>` in `processes` processes; they have done it when this returns.

    SIGTERM is passed on to them: a student's finish their step, save and end; those that decode end.

    Args:
        experiment: says the device.
        field: `training_processes` or `decoding_processes`: the parameter that an error should name.
        processes: how many, over all nodes.
        arguments: the command line of this process.

    Raises:
        ParameterError: the nodes or their GPUs do not allow so many.
        ProcessError: a process was killed.
        SystemExit: a process failed and has said why; the status is its own, 143 after SIGTERM.
    """
    hosts = [] if RENDEZVOUS in os.environ else hosts_of(os.environ)
    line = command(field, processes, arguments, os.environ, hosts)
    if line[0] == "srun":
        os.execvp("srun", line)
    _claim_gpus(experiment, field, processes // int(os.environ.get(NODES, "1")))
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "PET_"))]:
        del os.environ[name]
    _run_launcher(line[2:])


def hosts_of(environment: Mapping[str, str]) -> list[str]:
    """Names of the nodes of this Slurm job, in its order; none outside Slurm.

    Raises:
        ProcessError: Slurm does not say.
    """
    if "SLURM_JOB_ID" not in environment:
        return []
    # Snakemake's Slurm executor clears the variables that name the nodes; inside a job step they may name the step's.
    nodes = _said("squeue", "--noheader", "--jobs", environment["SLURM_JOB_ID"], "--format", "%N")
    return _said("scontrol", "show", "hostnames", nodes).split()


def command(
    field: str, processes: int, arguments: Sequence[str], environment: Mapping[str, str], hosts: Sequence[str] = ()
) -> list[str]:
    """The command line that starts `t3d <arguments>` in several processes.

    Args:
        field: as in `launch`.
        processes: how many, over all nodes.
        arguments: of `t3d`.
        environment: where srun started this launcher, `T3D_RENDEZVOUS`, `T3D_NODES` and `SLURM_NODEID` say which
            one it is.
        hosts: the nodes of the job.

    Returns:
        `srun ...` where launchers have yet to be started on several nodes, else `accelerate launch ...`.

    Raises:
        ParameterError: the processes cannot be shared evenly by the nodes.
    """
    nodes = int(environment[NODES]) if RENDEZVOUS in environment else max(1, len(hosts))
    if processes % nodes:
        raise ParameterError(
            f"{field}: {processes} processes cannot be shared evenly by the {nodes} nodes of this job. Set it to a "
            f"multiple of {nodes}."
        )
    if nodes > 1 and RENDEZVOUS not in environment:
        # Two jobs may share a node, so the port is the job's; below 32768, where the system gives ports to anybody.
        meet = f"{hosts[0]}:{10_000 + int(environment['SLURM_JOB_ID']) % 20_000}"
        spread = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
        # Inside a job step, whose resources it shares; when one launcher fails the others have nothing to wait for.
        inside = ["--overlap", "--kill-on-bad-exit=1", f"--export=ALL,{RENDEZVOUS}={meet},{NODES}={nodes}"]
        return ["srun", *spread, *inside, sys.executable, "-P", "-m", "t3d.cli", *arguments]
    here = processes // nodes
    threads = environment.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // here))
    options = {
        "--config_file": str(CONFIG),
        "--num_processes": str(processes),
        "--num_machines": str(nodes),
        "--num_cpu_threads_per_process": threads,
        "--dynamo_backend": "no",
        # 0: any port that is free.
        "--main_process_port": "0",
    }
    if nodes > 1:
        host, _, port = environment[RENDEZVOUS].rpartition(":")
        options |= {
            "--machine_rank": environment["SLURM_NODEID"],
            "--main_process_ip": host,
            "--main_process_port": port,
        }
    given = [word for option in options.items() for word in option]
    return ["accelerate", "launch", *given, "--multi_gpu", "--same_network", "--module", "t3d.cli", *arguments]


def _claim_gpus(experiment: "Experiment", field: str, here: int) -> None:
    """Give the processes of this node a GPU each, those that fewest jobs compute on; there must be as many.

    Said once, before there are several processes.
    """
    import torch

    from t3d.distributed.gpus import claim_gpus, device_of

    if device_of(experiment) != "cuda":
        return
    if torch.cuda.device_count() < here:
        raise ParameterError(
            f"{field}: {here} processes on this node need a GPU each, PyTorch sees {torch.cuda.device_count()}. Ask "
            "for as many GPUs, or for fewer processes."
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in claim_gpus(here))


def _run_launcher(arguments: Sequence[str]) -> None:
    """`accelerate launch`, in this process: its exit status is that of the processes, its signals are theirs."""
    import psutil
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def pass_on(number: int, _: FrameType | None) -> None:
        children = psutil.Process().children()
        if not children:
            raise SystemExit(_TERMINATED)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    # Left to it, the launcher would kill the processes 30 seconds after it asked them to end, and a step and its state
    # can take longer. So it does not hear of SIGTERM; it ends when they have.
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    signal.signal(signal.SIGTERM, pass_on)
    # What failed is said by the process itself, or below.
    logging.disable(logging.ERROR)
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in (-signal.SIGTERM, _TERMINATED):
            raise SystemExit(_TERMINATED) from None
        if failure.exitcode < 0:
            raise ProcessError(
                f"process {rank} was killed by {signal.Signals(-failure.exitcode).name}; out of memory, perhaps. Run "
                "again: training resumes from its last state, decoding begins anew."
            ) from None
        raise SystemExit(failure.exitcode) from None


def _said(*line: str) -> str:
    try:
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProcessError(f"Slurm does not name the nodes of this job ({' '.join(line)}): {error}") from error
