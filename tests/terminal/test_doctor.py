"""`t3d doctor`: what an experiment needs of a machine, on machines that are made up of small programs."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from t3d import params
from t3d.errors import DataError, ParameterError
from t3d.provenance import lineage
from t3d.sandbox import zygote
from t3d.terminal import doctor
from tests.conftest import ROOT
from tests.sandboxed import bubblewrap
from tests.started import clone, forked


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A clone on a machine with the programs that are written into a folder, and nothing else."""
    monkeypatch.chdir(clone(tmp_path))
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(zygote, "find_bwrap", lambda: None)

    def write(name, says):
        (programs / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (programs / name).chmod(0o755)

    return write


def seen(name="paper"):
    found = {line.subject: line for line in doctor.look(params.find(name))}
    return {subject: (line.state, line.text) for subject, line in found.items()}


def test_every_line_says_what_to_do(machine):
    found = seen()
    state, text = found["pins"]
    assert state == "todo"
    assert "params/paper.yaml: sources sdar-1.7b, sdar-4b" in text
    assert "`t3d pin --experiment paper` prints what to paste there" in text
    state, text = found["sandbox"]
    assert state == "todo"
    assert "there is no `bwrap` on this machine. Install it" in text
    assert "Verdicts on mbpp, humaneval need it." in text
    assert found["GPU"][0] == "todo"
    assert "jobs ask for up to 8: run it on a machine with GPUs, or with --profile slurm; or set" in found["GPU"][1]
    assert "`device: auto` in params/paper.yaml" in found["GPU"][1]
    assert found["Slurm"] == ("note", "no sbatch here; only --profile slurm needs it.")
    assert found["vLLM"][0] == "note"
    assert "make vllm-env VLLM_FOR=cuda" in found["vLLM"][1]
    # 9 students of 1.7e9 parameters, 4 bytes each, the hub's models, 2 bytes each; two states of 12 bytes.
    assert "models of the default tables take 84.0 GB, and each student in training up to 40.8 GB" in found["disk"][1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_driver_that_pytorch_cannot_use_is_named(machine):
    machine("nvidia-smi", "NVIDIA H100 80GB HBM3, 418.1")
    state, text = seen()["GPU"]
    assert state == "todo"
    assert text.startswith(f"1 x NVIDIA H100 80GB HBM3, driver 418.1: PyTorch {torch.__version__}")
    assert "Update the driver" in text


@pytest.mark.parametrize(("nodes", "state"), [("gpu:a100:4(S:0-1)", "todo"), ("gpu:8", "note"), ("(null)", "todo")])
def test_a_cluster_whose_nodes_have_too_few_gpus_is_named(machine, nodes, state):
    machine("sbatch", "")
    machine("sinfo", nodes)
    found = seen()["Slurm"]
    assert found[0] == state
    if state == "todo":
        assert "a job asks for 8 GPUs of one node" in found[1]
        assert "params/paper.yaml" in found[1]
    else:
        assert "srun --gpus=1 t3d doctor --experiment paper" in found[1]
        assert "slurm_account and slurm_partition" in found[1]


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("default-resources: [slurm_account=a, mem_mb=1]", "config.yaml does not set slurm_partition: Slurm"),
        ("default-resources: {slurm_account: a, slurm_partition: b}", "nodes have up to 8 GPUs. Look at a node"),
        ("default-resources: 7", "workflow/profiles/slurm/config.yaml cannot be read: .*Mend it"),
        ("just text", "workflow/profiles/slurm/config.yaml cannot be read: .*Mend it"),
    ],
)
def test_what_the_profile_of_a_cluster_sets_is_read(machine, profile, said):
    machine("sbatch", "")
    machine("sinfo", "gpu:8")
    path = Path("workflow", "profiles", "slurm", "config.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(profile)
    try:
        text = seen()["Slurm"][1]
    except ParameterError as error:
        text = str(error)
    assert re.search(said, text)


def test_what_stops_a_job_is_known_of_what_is_asked_for_alone(machine):
    experiment = params.find("paper")
    scores = lineage.origins_of(experiment, ["scores/sdar-1.7b-chat/mbpp/b4s2"])
    found = doctor.stops(experiment, scores, here=True)
    assert [line.partition(":")[0] for line in found] == ["pins", "sandbox", "GPU"]
    assert "sources sdar-1.7b, mbpp are not pinned" in found[0]
    # On a cluster, this machine says nothing about the nodes.
    assert len(doctor.stops(experiment, scores, here=False)) == 1
    assert doctor.stops(params.find("demo"), ["teachers/pocket-sdar"], here=True) == []


def test_local_files_that_are_missing_stop_what_needs_them(machine):
    experiment = params.find("qwen")
    behind = lineage.origins_of(experiment, ["scores/coder/gsm/b4s2"])
    (said,) = doctor.stops(experiment, behind, here=False)
    assert said.startswith(
        "pins: params/qwen.yaml, sources.coder.local: local/coder/model.gguf is missing; there is no"
    )
    assert "Put into local/coder: model.gguf (sha256 1d96146" in said
    assert "hf download" not in said
    assert "sources.gsm8k.local (local/gsm8k)" in said
    # What a teacher writes is compared with the questions of all benchmarks, so all sources are behind this score.
    assert seen("qwen")["pins"] == ("todo", said.removeprefix("pins: "))


def test_local_files_are_not_asked_for_where_nothing_is_made_from_them(machine, monkeypatch):
    """As with published scores: nothing that comes from a source is made again, be the source here or not."""
    experiment = params.find("qwen")
    score = "scores/coder/gsm/b4s2"
    behind = lineage.origins_of(experiment, [score])
    monkeypatch.setattr(doctor.verify, "fault", lambda _, artefact: None if artefact == score else DataError("none"))
    assert doctor.stops(experiment, behind, here=False) == []
    monkeypatch.setattr(doctor.verify, "fault", lambda _, artefact: DataError("none"))
    assert doctor.stops(experiment, behind, here=False) != []


def test_published_tables_are_named_where_files_are_missing(machine):
    Path("results", "qwen").mkdir(parents=True, exist_ok=True)
    index = Path("results", "qwen", "published.sha256")
    index.write_text("")
    assert "The published tables need none of them: t3d pull scores --experiment qwen" in seen("qwen")["pins"][1]
    index.unlink()
    assert "published" not in seen("qwen")["pins"][1]


def test_a_shipped_teacher_that_is_not_there_is_named_with_those_that_are(machine):
    demo = params.find("demo")
    assert seen("demo")["teachers"] == ("ok", "pocket-sdar: shipped, and here.")
    moved = demo.teachers["pocket-sdar"].model_copy(update={"path": "data/shipped/nope"})
    experiment = demo.model_copy(update={"teachers": demo.teachers | {"pocket-sdar": moved}})
    (line,) = (line for line in doctor.look(experiment) if line.subject == "teachers")
    assert line.state == "todo"
    assert line.text.startswith(
        "params/demo.yaml, teachers.pocket-sdar.path: data/shipped/nope.manifest.json is missing: "
    )
    assert "data/shipped has data/shipped/pocket-sdar. Correct the path" in line.text
    # It is the end of a run that would fail for it.
    assert f"teachers: {line.text}" in doctor.stops(experiment, ["teachers/pocket-sdar"], here=False)


@bubblewrap
def test_the_demo_needs_nothing_here(tmp_path):
    done = forked(clone(tmp_path), ["doctor"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run in bubblewrap" in done.stdout
    assert "todo" not in done.stdout
    shutil.copy(ROOT / "params" / "paper.yaml", tmp_path / "params" / "other.yaml")
    assert forked(tmp_path, ["doctor", "--experiment", "other"]).returncode == 1
