"""What an experiment costs: sizes move it as they should, and a scheduler is asked for enough."""

import pytest
import yaml

from t3d import params
from t3d.errors import ParameterError
from t3d.provenance import lineage
from t3d.terminal import cost
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def paper():
    return params.load(ROOT / "params" / "paper.yaml")


def seconds(experiment, artefact, gpu="A100"):
    return cost.of_artefact(experiment, artefact, gpu).seconds


def test_fewer_steps_cost_less_and_a_larger_model_more(paper):
    answers = [seconds(paper, f"answers/sdar-4b-chat/math500/{b}") for b in ("b4s4", "b4s2", "b4t0.9", "b4s1")]
    assert answers == sorted(answers, reverse=True)
    assert seconds(paper, "answers/sdar-1.7b-chat/math500/b4s1") < answers[-1]
    assert seconds(paper, "answers/sdar-4b-chat/math500/b4s1", "H100") < answers[-1]


def test_a_step_is_its_arithmetic(paper):
    """By hand: T3D, 880 steps of 256 rows of 628 tokens in two copies, 8 operations a parameter and token."""
    alone = paper.model_copy(update={"training_processes": 1})
    flops = 8 * 1.7e9 * 880 * 256 * (128 + 500) * 2
    assert seconds(alone, "students/t3d-math-1.7b-seed0") == pytest.approx(27 + flops / (312e12 * 0.4))
    assert seconds(alone, "students/naive-td-math-1.7b-seed0") == pytest.approx(27 + flops * 6 / 8 / (312e12 * 0.4))


def test_only_gpus_cost(paper):
    for artefact in ("sources/math500", "teachers/sdar-4b-chat", "prompts/math500", "scores/sdar-4b-chat/mbpp/b4s1"):
        assert seconds(paper, artefact) == 0


def test_jobs_ask_for_more_than_they_should_take(paper):
    asked = cost.job_resources(paper)
    dearest = max(seconds(paper, f"students/{run}") for run in lineage.runs(paper))
    assert asked["students"].minutes * 60 > 2 * dearest / paper.training_processes
    # A state of 4B: weights, reference and two moments in float32, and as much again while it is written.
    assert asked["students"].memory_mb > 2 * 16 * 4e9 / 1e6
    assert asked["answers"].memory_mb > 2 * 4e9 / 1e6


def test_decoding_processes_share_the_time_and_each_has_its_memory(paper):
    one, eight = (cost.job_resources(paper.model_copy(update={"decoding_processes": count})) for count in (1, 8))
    for kind in ("trajectories", "answers"):
        assert eight[kind].memory_mb == pytest.approx(8 * one[kind].memory_mb, abs=8)
        assert eight[kind].minutes < one[kind].minutes
    assert eight["students"] == one["students"]
    # Half as many batches take half as long; a share that fills no batch is not decoded in so small a part of the time.
    whole, half, least = (
        cost.of_artefact(paper, "answers/sdar-4b-chat/math500/b4s4", decoding_processes=count).seconds - 50
        for count in (1, 2, 500)
    )
    assert half == pytest.approx(whole / 2, rel=0.05)
    assert least > 1.5 * whole / 500


def test_the_report_adds_up(paper):
    text = cost.report(paper)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line and not line.startswith(" ")}
    stages = ("teachers", "trajectories", "students", "answers")
    assert sum(float(rows[stage][1]) for stage in stages) == pytest.approx(float(rows["all"][1]), abs=0.2)
    assert float(rows["table4.csv"][2]) > 0
    assert "8 processes train a student together, each at 80% of the speed of as many alone (measured: 2)." in text
    assert "at 32% of 3.12e+14 FLOP/s" in text
    alone = cost.report(paper.model_copy(update={"training_processes": 1}))
    assert "train a student together" not in alone
    assert "at 40% of 3.12e+14 FLOP/s" in alone


def test_a_student_that_does_not_fit_is_named(paper):
    assert "Not on this GPU" not in cost.report(paper)
    alone = paper.model_copy(update={"training_processes": 1})
    assert "a student of sdar-4b-chat needs 72 GB beside activations with training_processes: 1" in cost.report(alone)
    assert "sdar-4b-chat needs" not in cost.report(alone, "H200")
    assert cost.training_memory(4e9, 8) == pytest.approx(26e9)


def test_an_unknown_gpu_is_named(paper):
    with pytest.raises(ParameterError, match="no figures of a GPU called 'B7': A100, H100, H200"):
        cost.report(paper, "B7")


def test_every_table_of_the_paper_is_in_its_experiment():
    content = yaml.safe_load((ROOT / "params" / "paper.yaml").read_text())
    assert {f"table{number}" for number in range(1, 10)} <= set(content["tables"])
    assert {table.get("paper_table") for table in content["tables"].values()} >= set(range(1, 8))


def test_an_autoregressive_model_reads_one_copy_of_its_rows():
    pocket = params.load(ROOT / "params" / "pocket.yaml")
    teacher, autoregressive = (seconds(pocket, f"teachers/{name}") - 10 for name in ("pocket-sdar", "pocket-ar"))
    assert autoregressive == pytest.approx(teacher / 2, rel=0.01)


def test_a_small_experiment_is_shown_in_minutes():
    demo, paper = (cost.report(params.load(ROOT / "params" / f"{name}.yaml")) for name in ("demo", "paper"))
    assert "GPU minutes" in demo
    assert "GPU hours" not in demo
    assert "GPU hours" in paper
    assert "GPU minutes" not in paper
    answers = next(line for line in demo.splitlines() if line.startswith("answers"))
    assert float(answers.split()[-1]) > 10
