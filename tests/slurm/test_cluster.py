"""`--profile slurm` on a real cluster: what jobs ask for, that they run side by side, and how they fail.

`make test-slurm` runs this; `make test` does not. The DAG is the small twin of the demo, whose jobs ask for a GPU and
run on the CPU.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from t3d import params
from t3d.distillation.trainer import LOG
from t3d.prompts import sets
from t3d.provenance import lineage, store
from t3d.teachers import teacher
from t3d.terminal import cost
from tests.conftest import ROOT
from tests.slurm import cluster
from tests.started import wait_for
from tests.workflow.small import BENCHMARKS, twin

ANSWERS = "data/twin/answers/t3d-seed0/gsm/b8s2.manifest.json"

GROUP = "evaluation_t3d-seed0_gsm_answers"
TEACHER = "data/twin/teachers/pocket-sdar.manifest.json"
PROMPTS = "data/twin/prompts/{}-train.manifest.json"
IMPATIENT = Path(__file__).parent / "impatient.py"
KINDS = {"teacher": "teachers", "trajectories": "trajectories", "student": "students", GROUP: "answers"}
SHARD = "data/twin/trajectories/code/0-of-1.manifest.json"
SCORES = [f"data/twin/scores/pocket-sdar/gsm/{budget}.manifest.json" for budget in ("b8s2", "b8s4")]
IN_THE_WAY = "data/twin/scores/pocket-sdar/gsm/b8s2.parquet"
STUDENT = "data/twin/students/sft-seed0.manifest.json"
T3D = "students/t3d-seed0.manifest.json"
STUDENT_LOG = "logs/twin/students/sft-seed0.log"


@pytest.fixture(scope="module", autouse=True)
def slurm():
    if reason := cluster.obstacle():
        pytest.exit(reason, returncode=1)
    with cluster.running():
        yield


def make_project(folder: Path) -> Path:
    """A project directory with the twin on GPUs. Its student `sft` would train for hours."""
    content = twin() | {"gpus": 1, "device": "cpu"}
    content["students"]["sft"]["optimizer"]["steps"] = 100_000
    # It leaves a state when it is asked to end, and at no other time.
    content["students"]["sft"]["checkpoint_every"] = 100_000
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "twin.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "data").mkdir()
    (folder / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    (folder / "slurm").symlink_to(ROOT / "slurm")
    return folder


def start(project: Path, *arguments: str, nice: int = 0, tools: Path | None = None) -> subprocess.Popen:
    """Snakemake with the profile, looking at its jobs all the time; with `tools` before those of this machine."""
    # `t3d` is found beside Snakemake, here and in the jobs.
    folders = [*([tools] if tools else []), Path(sys.executable).parent, os.environ["PATH"]]
    path = os.pathsep.join(map(str, folders))
    command = [sys.executable, str(IMPATIENT), "-s", str(ROOT / "Snakefile"), "--cores", "all", "--profile", "slurm"]
    # The profile's 20 seconds before the first look would be waited for at the end of the shortest run as well.
    command += ["--latency-wait", "10", "--slurm-init-seconds-before-status-checks", "1", *arguments]
    return subprocess.Popen(
        ["nice", "-n", str(nice), *command, "--config", "experiment=twin"],
        cwd=project,
        env=os.environ | {"PATH": path},
        # Tests that run in the background of a shell ignore Ctrl-C, and what they start would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(running: subprocess.Popen) -> str:
    """What Snakemake said, once it has ended."""
    try:
        return running.communicate(timeout=900)[0]
    except subprocess.TimeoutExpired as late:
        running.kill()
        pytest.fail(f"Snakemake still waits after {late.timeout} s: {running.communicate()[0][-3000:]}")


def says(log: Path, text: str) -> bool:
    return log.is_file() and text in log.read_text()


def jobs_of(project: Path) -> dict[str, list[dict[str, str]]]:
    """The Slurm jobs of a project by rule."""
    found: dict[str, list[dict[str, str]]] = {}
    for job in cluster.jobs():
        if job["WorkDir"] == str(project):
            found.setdefault(job["Comment"].removeprefix("rule_").partition("_wildcards")[0], []).append(job)
    return found


def slow_squeue(folder: Path) -> Path:
    """Put a `squeue` of a busy cluster into `folder`, and return the file that is there while it takes its time."""
    looking = folder / "looking"
    squeue = folder / "squeue"
    squeue.write_text(f'#!/bin/sh\ntouch {looking}\nsleep 2\nrm {looking}\nexec {shutil.which("squeue")} "$@"\n')
    squeue.chmod(0o755)
    return looking


def make_beginning(project: Path) -> None:
    """The teacher and the training prompts, without jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        experiment = params.find("twin")
        teacher.make(experiment, "pocket-sdar", project / TEACHER)
        for name in BENCHMARKS:
            sets.make(experiment, f"{name}-train", project / TEACHER, project / PROMPTS.format(name))


@pytest.fixture(scope="module")
def over_time(slurm, tmp_path_factory):
    """A run whose student trains, and gets a minute. Slurm notices after one or two: it runs beside the rest."""
    project = make_project(tmp_path_factory.mktemp("over-time"))
    # What it needs is there: its minute begins at once.
    make_beginning(project)
    limits = ("--retries", "0", "--set-resources", "student:runtime=1")
    running = start(project, STUDENT, *limits, nice=10)
    wait_for((project / "work" / "twin" / "sft-seed0" / lineage.STEP).is_file, seconds=300)
    return project, running


@pytest.fixture(scope="module")
def over_memory(slurm, tmp_path_factory):
    """A run whose shard gets 100 MB at first; it runs beside the rest as well."""
    project = make_project(tmp_path_factory.mktemp("over-memory"))
    make_beginning(project)
    return project, start(project, SHARD, "--set-resources", "trajectories:mem_mb=100 * attempt ** 5")


@pytest.fixture(scope="module")
def half(over_time, tmp_path_factory):
    """A run of two answers and their scores, of which one score fails; beside the rest, too."""
    project = make_project(tmp_path_factory.mktemp("half"))
    make_beginning(project)
    # A folder where its file belongs: one of the two scores fails, and nothing else.
    (project / IN_THE_WAY).mkdir(parents=True)
    return project, start(project, *SCORES, "--retries", "0")


@pytest.fixture(scope="module")
def finished(over_time, over_memory, half, tmp_path_factory):
    """A project in which everything up to the answers of a student was made, and what Snakemake said."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    running = start(project, ANSWERS)
    said = finish(running)
    assert running.returncode == 0, said[-5000:]
    return project, said


@pytest.fixture(scope="module")
def two_nodes(finished, tmp_path_factory):
    """A job on two nodes that trains a student of `finished` once more, beside the rest."""
    project, folder = finished[0], tmp_path_factory.mktemp("two-nodes")
    shards = [str(path) for key in BENCHMARKS for path in sorted(project.glob(f"data/twin/trajectories/{key}/*.json"))]
    options = ["--experiment", "twin", "--run", "t3d-seed0", "--teacher", TEACHER, "--work", str(folder / "work")]
    options += ["--data", *(path for path in shards if path.endswith(store.MANIFEST)), "--out", str(folder / T3D)]
    line = [sys.executable, "-P", "-m", "t3d.cli", "distill", *options, "--processes", "2"]
    job = ["--wait", "--partition=both", "--nodes=2", "--ntasks-per-node=1", "--mem=4000", f"--output={folder / 'log'}"]
    return folder, subprocess.Popen(["sbatch", *job, "--wrap", shlex.join(line)], cwd=project)


def test_every_wave_runs_as_jobs_that_ask_for_what_their_rule_needs(finished):
    project, _ = finished
    jobs = jobs_of(project)
    asked = cost.job_resources(params.load(project / "params" / "twin.yaml"))
    assert {rule: len(of) for rule, of in jobs.items()} == {"teacher": 1, "trajectories": 3, "student": 1, GROUP: 1}
    for rule, of in jobs.items():
        for job in of:
            assert job["JobState"] == "COMPLETED"
            assert job.get("TresPerJob") == (None if rule == "teacher" else "gres:gpu:1"), rule
            # One task, on one node: a second would run the same command once more.
            assert (job["NumTasks"], job["NumNodes"]) == ("1", "1")
            # Eight cores for each GPU, however few the node has where Snakemake runs.
            assert rule == "teacher" or job["NumCPUs"] == "8"
            assert job["TimeLimit"] == f"00:{asked[KINDS[rule]].minutes}:00"
            assert int(job["MinMemoryNode"].removesuffix("M")) == pytest.approx(asked[KINDS[rule]].memory_mb, abs=1)
            assert job["Requeue"] == "1"
    receipt = store.read_receipt(store.read(project / ANSWERS, kind="answers"))
    assert receipt["device"] == "cpu"


def test_shards_are_one_array_and_run_side_by_side(finished):
    project, said = finished
    # The shards of `gsm`; the one of `code` is a wave of its own where its prompts were ready sooner or later.
    shards = [job for job in jobs_of(project)["trajectories"] if "ArrayJobId" in job]
    assert len({job["ArrayJobId"] for job in shards}) == 1
    assert {"1", "2"} <= {job["ArrayTaskId"] for job in shards}
    assert "Submitted array job with Snakemake IDs" in said
    first, second = sorted((job["StartTime"], job["EndTime"]) for job in shards)[:2]
    assert second[0] < first[1]


def test_a_rerun_plans_nothing(finished):
    project, _ = finished
    assert "Nothing to be done" in finish(start(project, ANSWERS))


def test_what_is_missing_of_a_model_and_a_benchmark_is_one_submission_and_what_it_made_before_a_failure_stays(
    half,
):
    project, running = half
    said = finish(running)
    assert running.returncode == 1, said[-3000:]
    (job,) = jobs_of(project)["evaluation_pocket-sdar_gsm_answers_score"]
    answers = cost.job_resources(params.load(project / "params" / "twin.yaml"))["answers"]
    # One after the other: all jobs' time, one job's GPU and cores.
    assert job["TimeLimit"] == f"01:{2 * answers.minutes + 2 * 15 - 60:02}:00"
    assert (job["TresPerJob"], job["NumCPUs"], job["MinMemoryNode"]) == ("gres:gpu:1", "8", "8000M")
    made = list((project / "data/twin").rglob("pocket-sdar/gsm/*.manifest.json"))
    assert "answers" in {path.parts[-4] for path in made}
    (project / IN_THE_WAY).rmdir()
    # What is missing is planned, and nothing else; in a run that goes on it is one submission again.
    planned = finish(start(project, *SCORES, "-n"))
    assert re.search(rf"^total +{4 - len(made)}$", planned, flags=re.MULTILINE), planned[-2000:]


def test_more_gpus_than_one_are_not_cut_to_the_limit_of_a_local_run(slurm, tmp_path):
    project = make_project(tmp_path / "project")
    more = len(cluster.GPUS) + 1
    said = finish(start(project, TEACHER, "--retries", "0", "--set-resources", f"teacher:gpu={more}"))
    # Refused at once: the node has one less.
    assert f"--gpus={more}" in said
    assert "Requested node configuration is not available" in said


def test_a_partition_that_is_not_there_is_named(slurm, tmp_path):
    project = make_project(tmp_path / "project")
    running = start(project, TEACHER, "--default-resources", "slurm_partition=nowhere", "runtime=5", "mem_mb=2000")
    said = finish(running)
    assert running.returncode == 1
    assert "invalid partition specified: nowhere" in said
    assert not jobs_of(project)


def test_a_job_over_its_memory_is_tried_again_with_more(finished, over_memory):
    project, running = over_memory
    said = finish(running)
    assert running.returncode == 0, said[-5000:]
    log = re.search(r"^ +log: \S+, (\S+/logs/slurm/\S+)", said, flags=re.MULTILINE).group(1)
    assert "Exceeded job memory limit" in Path(log).read_text()
    assert [job["MinMemoryNode"] for job in jobs_of(project)["trajectories"]] == ["100M", "3200M"]


def test_a_job_over_its_time_says_so_and_training_resumes_and_is_cancelled(finished, two_nodes, over_time, tmp_path):
    project, running = over_time
    said = finish(running)
    assert running.returncode == 1
    assert "SLURM status is: 'TIMEOUT'" in said
    states = sorted((project / "work" / "twin" / "sft-seed0").glob("step-*.pt"))
    assert states, said[-5000:]
    log = project / STUDENT_LOG
    log.unlink()
    # Ctrl-C comes at the worst moment: while Snakemake looks at its jobs, its list of them is empty.
    looking = slow_squeue(tmp_path)
    again = start(project, STUDENT, tools=tmp_path)
    try:
        wait_for(lambda: says(log, "resuming after step"), seconds=120)
        step = int(re.search(r"resuming after step (\d+)", log.read_text()).group(1))
        assert step == int(states[-1].stem.removeprefix("step-"))
        wait_for(looking.exists)
    finally:
        # What Ctrl-C does: the jobs are cancelled, not left behind.
        again.send_signal(signal.SIGINT)
        finish(again)
    deadline = time.monotonic() + 60
    # Asked to end, it finishes its step and saves its state first.
    while (states := {job["JobState"] for job in jobs_of(project)["student"]}) != {"TIMEOUT", "CANCELLED"}:
        assert time.monotonic() < deadline, states
        time.sleep(0.5)


def test_two_nodes_train_one_student(finished, two_nodes):
    """Two daemons of one machine: launchers meet through Slurm's own names. It says nothing of a network or of NCCL."""
    (project, _), (folder, running) = finished, two_nodes
    assert running.wait(300) == 0, (folder / "log").read_text()[-3000:]
    made, alone = store.read(folder / T3D), store.read(project / "data" / "twin" / T3D)
    assert store.read_receipt(made)["processes"] == 2
    assert made.recipes == alone.recipes
    losses = [[json.loads(text)["loss"] for text in (each.folder() / LOG).open()] for each in (made, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_machine_with_a_slurm_of_its_own_is_left_alone(tmp_path):
    (tmp_path / "slurm.conf").write_text("ClusterName=ours\n")
    assert "belongs to this machine's own Slurm" in cluster.obstacle((tmp_path,))
    shutil.copy("/etc/slurm/slurm.conf", tmp_path)
    assert cluster.obstacle((tmp_path,)) is None
