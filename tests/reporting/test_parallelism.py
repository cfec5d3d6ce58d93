"""AUP against its formula, and what the fastest budget at matched accuracy is."""

import math

import numpy as np
import pytest

from t3d.params import ParallelismTable
from t3d.reporting import scores
from t3d.reporting.parallelism import aup, parallelism_table
from tests.reporting.helpers import experiment, write_scores


def plain(points, best):
    """The published formula, term by term."""
    kept = [(rho, y) for rho, y in points if y >= points[0][1] - 5]
    weight = [y * min(math.exp(-3 * (1 - y / best)), 1) for _, y in kept]
    total = kept[0][0] * kept[0][1]
    for i in range(1, len(kept)):
        total += (kept[i][0] - kept[i - 1][0]) * (weight[i] + weight[i - 1]) / 2
    return total


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 90)],
        [(1.0, 90), (2.0, 88), (4.0, 86)],
        [(1.0, 90), (2.0, 60), (4.0, 89)],  # a point is left out
        [(1.0, 90), (2.0, 50), (4.0, 88)],
        [(1.0, 90), (2.0, 85), (4.0, 84)],  # one lies on the limit
        [(0.8, 70), (1.7, 95), (3.1, 40)],
    ],
)
def test_aup_is_the_published_formula(points):
    rho, correct = (np.array(column) for column in zip(*points, strict=True))
    assert aup(rho, correct, 100, 92.0) == pytest.approx(plain(points, 92.0))
    both = aup(rho, np.stack([2 * correct, correct]), 200, 92.0)
    assert both[0] == pytest.approx(plain(points, 92.0))
    assert both[1] == pytest.approx(plain([(r, y / 2) for r, y in points], 92.0))


def test_a_curve_goes_on_after_a_point_that_is_left_out():
    # By hand: 90 + 3 (88 exp(-3 (1 - 88/90)) + 90) / 2.
    assert aup(np.array([1.0, 2.0, 4.0]), np.array([90, 50, 88]), 100, 90.0) == pytest.approx(348.487, abs=0.001)


@pytest.mark.parametrize("answers", [160, 500, 1000, 1319, 3000])
def test_a_loss_of_exactly_the_limit_is_kept_whatever_the_floats_say(answers):
    """89.1 - 5 and 84.1 are not the same float."""
    first = np.arange(answers // 4, answers)
    for lost in (answers // 20, answers // 20 + 1):
        both = aup(np.array([1.0, 2.0]), np.stack([first, first - lost], axis=1), answers, 200.0)
        alone = aup(np.array([1.0]), first[:, None], answers, 200.0)
        assert ((both > alone) == (20 * lost <= answers)).all()


def test_without_loss_it_is_the_plain_area():
    assert aup(np.array([1.0, 2.0, 4.0]), np.full(3, 80), 100, 80.0) == pytest.approx(4 * 80.0)


def test_the_fastest_budget_keeps_the_teachers_accuracy(tmp_path):
    tiny = experiment()
    table = ParallelismTable(
        kind="parallelism",
        caption="AUP",
        teacher="teacher",
        students=("t3d",),
        benchmarks=("gsm",),
        budgets=("b8s4", "b8s1"),
        best_accuracy={"gsm": 100.0},
    )
    manifests = [p for p in write_scores(tiny, tmp_path) if "b8" in p.name]
    frame, totals = scores.load(tiny, table, manifests)
    totals.loc[totals["budget"] == "b8s1", ["denoising_steps", "tokens_per_second"]] = [8, 400.0]
    original, t3d = parallelism_table(tiny, table, frame, totals).to_dict("records")
    # 16 tokens in 8 + 4 passes for each of 8 questions, and in 8 + 32 for all of them; 1 of 8 answers is right at both.
    assert original["aup"] == pytest.approx(plain([(4 / 3, 12.5), (128 / 40, 12.5)], 100.0), abs=0.01)
    assert (original["fastest_budget"], original["points"]) == ("b8s1", 2)
    # T3D: 87.5 % at b8s4 and 6.25 % at b8s1, which is below the teacher's 12.5 % less 5.
    assert (t3d["fastest_budget"], t3d["tokens_per_second"], t3d["points"]) == ("b8s4", 100.0, 1)
    assert t3d["aup"] == pytest.approx(4 / 3 * 87.5, abs=0.01)
    assert t3d["aup_low"] <= t3d["aup"] <= t3d["aup_high"]
