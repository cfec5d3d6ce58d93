"""The command that starts several processes, on one node and on several, and what is refused before it."""

import re

import pytest
import torch

from t3d.distributed import launch
from t3d.errors import ParameterError
from t3d.params import Experiment, Optimizer, find
from t3d.provenance import lineage

ARGUMENTS = ["rollout", "--shard", "0-of-1", "--processes", "8"]
FIELD = "decoding_processes"
JOB = {"SLURM_JOB_ID": "41234"}


def options(line):
    """Option -> value of an `accelerate launch` line, up to the module."""
    words = line[2 : line.index("--module")]
    return {a: b for a, b in zip(words, [*words[1:], ""], strict=True) if a.startswith("--")}


@pytest.mark.parametrize("hosts", [(), ("n1",)])
def test_one_node(hosts):
    line = launch.command(FIELD, 8, ARGUMENTS, JOB if hosts else {}, hosts)
    assert line[:2] == ["accelerate", "launch"]
    assert line[line.index("--module") :] == ["--module", "t3d.cli", *ARGUMENTS]
    given = options(line)
    assert (given["--num_processes"], given["--num_machines"], given["--main_process_port"]) == ("8", "1", "0")
    assert "--machine_rank" not in given
    # Without a file of ours the user's own `accelerate config` would be read.
    assert launch.CONFIG.is_file()
    assert given["--config_file"] == str(launch.CONFIG)


def test_several_nodes_get_a_launcher_each_that_know_where_to_meet():
    line = launch.command(FIELD, 8, ARGUMENTS, JOB, ["n1", "n2"])
    assert line[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--overlap"} <= set(line)
    assert "--export=ALL,T3D_RENDEZVOUS=n1:11234,T3D_NODES=2" in line
    assert line[-len(ARGUMENTS) - 2 :] == ["-m", "t3d.cli", *ARGUMENTS]
    for node in ("0", "1"):
        there = JOB | {"T3D_RENDEZVOUS": "n1:11234", "T3D_NODES": "2", "SLURM_NODEID": node}
        given = options(launch.command(FIELD, 8, ARGUMENTS, there))
        assert (given["--num_processes"], given["--num_machines"], given["--machine_rank"]) == ("8", "2", node)
        assert (given["--main_process_ip"], given["--main_process_port"]) == ("n1", "11234")


def test_threads_are_shared_by_the_processes_of_a_node_unless_said():
    assert (
        options(launch.command(FIELD, 2, ARGUMENTS, {"OMP_NUM_THREADS": "5"}))["--num_cpu_threads_per_process"] == "5"
    )
    assert options(launch.command(FIELD, 4096, ARGUMENTS, {}))["--num_cpu_threads_per_process"] == "1"


def test_nodes_share_evenly():
    with pytest.raises(ParameterError, match=r"decoding_processes: 8 processes .* 3 nodes .* multiple of 3"):
        launch.command(FIELD, 8, ARGUMENTS, JOB, ["n1", "n2", "n3"])


@pytest.mark.parametrize("field", ["training_processes", "decoding_processes"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks how many GPUs there are")
def test_a_gpu_for_each(field):
    found = find("demo").model_copy(update={"device": "cuda"})
    with pytest.raises(ParameterError, match=f"{field}: 64 processes on this node need a GPU each, PyTorch sees"):
        launch.launch(found, field, 64, ARGUMENTS)


def test_outside_slurm_there_are_no_nodes():
    assert launch.hosts_of({}) == []


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "advice"),
    [
        (16, 8, 4, "8 sequences of a batch of 16 make 2 micro-batches .* choose 4 or a smaller divisor"),
        (2, None, 4, "use 2 processes or fewer"),
        (16, 8, 2, None),
        # They need not be divisible by the processes.
        (6, 2, 2, None),
    ],
)
def test_each_process_needs_a_micro_batch(batch, micro, processes, advice):
    spec = Optimizer(steps=1, batch_size=batch, micro_batch_size=micro, learning_rate=1)
    demo = find("demo")
    student = demo.students["t3d"].model_copy(update={"optimizer": spec})
    fault = student.fault_of(processes)
    assert re.search(rf"^optimizer\.micro_batch_size: .*{advice}", fault) if advice else fault is None
    changed = {"students": {"t3d": student}, "tables": {}, "figures": {}, "training_processes": processes}
    content = demo.model_dump(exclude_unset=True) | {"students": {}, "tables": {}, "figures": {}}
    if advice:
        with pytest.raises(ParameterError, match=r"params/demo.yaml: students.t3d.optimizer.micro_batch_size: "):
            lineage.check_processes(demo.model_copy(update=changed), "t3d-seed0", processes)
        with pytest.raises(ValueError, match=r"students.t3d.optimizer.micro_batch_size: "):
            Experiment.model_validate(content | {"students": {"t3d": student}, "training_processes": processes})
