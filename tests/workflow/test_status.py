"""`t3d status` and Snakemake agree on how many jobs are left."""

import json
import re
import shutil

import pytest

from tests.workflow.small import snakemake, t3d, twin, write


def jobs_of(project):
    """What Snakemake plans, without the target that collects everything."""
    said = snakemake(project, "-n")
    total = re.search(r"^total +(\d+)$", said, flags=re.MULTILINE)
    return int(total.group(1)) - ("\nall " in said) if total else 0


def lost_scores(project):
    shutil.rmtree(project / "data" / "demo" / "scores" / "t3d-seed0")
    (project / "results" / "demo" / "table1.csv").unlink()


def a_new_budget(project):
    content = twin()
    content["tables"]["table1"]["budgets"].append("b8s4")
    write(project, content)
    # Of a table that is there nobody needs the answers.
    shutil.rmtree(project / "data" / "demo" / "answers" / "pocket-sdar")


def a_new_label(project):
    content = twin()
    content["students"]["t3d"]["label"] = "T3D, ours"
    write(project, content)


def weights_not_fetched(project):
    """Of a student the figure of trainings reads the log."""
    content = twin()
    content["figures"]["training"]["on_request"] = False
    write(project, content)
    for weights in (project / "data" / "demo" / "students").rglob("*.safetensors"):
        weights.unlink()


CASES = {
    "nothing is made": lambda project: [shutil.rmtree(project / name) for name in ("results", "data/demo")],
    **{f.__name__.replace("_", " "): f for f in (lost_scores, a_new_budget, a_new_label, weights_not_fetched)},
}


@pytest.mark.parametrize("case", CASES)
def test_jobs_left_are_those_that_snakemake_plans(project, case):
    CASES[case](project)
    remaining = json.loads(t3d(project, "status", "--json"))["remaining"]
    assert remaining["jobs"] == jobs_of(project)
    # Snakemake's records of earlier jobs say how long they took.
    assert remaining["unknown"] == 0
