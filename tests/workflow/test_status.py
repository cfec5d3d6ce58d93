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


def a_student_made_again(project):
    content = twin()
    content["students"]["t3d"]["optimizer"]["learning_rate"] = 1e-5
    write(project, content)


def a_new_budget(project):
    content = twin()
    content["tables"]["table1"]["budgets"].append("b8s4")
    write(project, content)


def a_new_budget_of_a_student_whose_weights_are_not_here(project):
    a_new_budget(project)
    shutil.rmtree(project / "data" / "demo" / "students")


CASES = {
    "everything is made": lambda project: None,
    "nothing is made": lambda project: [shutil.rmtree(project / name) for name in ("results", "data/demo")],
    "the answers behind scores are not here": lambda project: shutil.rmtree(project / "data" / "demo" / "answers"),
    "a label": lambda project: write(project, twin() | {"students": twin()["students"] | {"t3d": label()}}),
    **{f.__name__.replace("_", " "): f for f in (lost_scores, a_student_made_again, a_new_budget)},
    "a new budget, weights are not here": a_new_budget_of_a_student_whose_weights_are_not_here,
}


def label():
    return twin()["students"]["t3d"] | {"label": "T3D, ours"}


@pytest.mark.parametrize("case", CASES)
def test_jobs_left_are_those_that_snakemake_plans(project, case):
    CASES[case](project)
    remaining = json.loads(t3d(project, "status", "--json"))["remaining"]
    assert remaining["jobs"] == jobs_of(project)
    if case == "nothing is made":
        assert remaining["unknown"] == remaining["jobs"]
    else:
        assert remaining["unknown"] == 0
