from fractions import Fraction
from itertools import product
from math import comb, sqrt
from statistics import mean, stdev

import numpy as np
import pytest

from t3d.errors import DataError
from t3d.reporting.statistics import holm, paired_bootstrap, paired_test, points_below, seed_interval, wilson


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (850, 1000), (1, 2), (131.5, 164)])
def test_wilson_is_the_textbook_formula(correct, n):
    z, p = 1.959963984540054, correct / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson(correct, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_wilson_needs_answers():
    with pytest.raises(DataError, match="an interval over zero answers"):
        wilson(0, 0)


@pytest.mark.parametrize(("gained", "lost"), [(9, 1), (1, 9), (5, 5), (0, 6), (30, 17)])
def test_paired_test_of_one_seed_is_exact_mcnemar(gained, lost):
    ours = [1] * gained + [0] * lost + [1, 1, 0]
    base = [0] * gained + [1] * lost + [1, 1, 0]
    discordant = gained + lost
    tail = sum(comb(discordant, k) for k in range(min(gained, lost) + 1)) / 2**discordant
    assert paired_test(ours, base) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_paired_test_of_equal_answers_is_one():
    assert paired_test([1, 0, 1], [1, 0, 1]) == 1.0


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_paired_test_of_several_seeds_counts_every_choice_of_signs(seeds):
    ours = [k % (seeds + 1) / seeds for k in (1, 2, 3, 4, 5, 7, 9, 11)]
    base = [0, 0, 1, 0, 1, 0, 0, 1]
    difference = [a - b for a, b in zip(ours, base, strict=True)]
    sums = [abs(sum(s * d for s, d in zip(signs, difference, strict=True))) for signs in product((1, -1), repeat=8)]
    assert paired_test(ours, base) == pytest.approx(mean(s >= abs(sum(difference)) - 1e-9 for s in sums), rel=1e-12)


def test_averaging_over_seeds_alone_is_no_difference():
    """Both are right three times in four; a sign test would count six questions lost and two won."""
    assert paired_test([0.75] * 8, [1] * 6 + [0] * 2) == pytest.approx(1.0)


def test_paired_bootstrap_is_the_bootstrap_of_questions():
    rng = np.random.default_rng(3)
    ours, base = rng.random(40) < 0.7, rng.random(40) < 0.5
    difference = ours.astype(float) - base
    means = [difference[rng.integers(0, 40, 40)].mean() for _ in range(10_000)]
    assert paired_bootstrap(ours.astype(float), base) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    assert paired_bootstrap(ours.astype(float), base) == paired_bootstrap(ours.astype(float), base)
    assert paired_bootstrap([1, 0], [1, 0]) == (0.0, 0.0)


def test_the_bootstrap_of_several_seeds_has_the_last_digit_right():
    """Every resample is a whole number of thirds; a sum of rounded thirds would be off in the last digits."""
    low, high = paired_bootstrap([1 / 3] * 7 + [1.0] * 2, [0.0] * 9)
    assert all(Fraction(end).limit_denominator(1000) == pytest.approx(end, abs=1e-15) for end in (low, high))
    assert paired_bootstrap([1 / 3] * 9, [0.0] * 9) == (1 / 3, 1 / 3)


@pytest.mark.parametrize(("n", "base_n"), [(160, 160), (1000, 1000), (3000, 1000), (1319, 3957)])
def test_points_below_is_the_float_nearest_to_the_true_value(n, base_n):
    correct, base = np.arange(0, n, 7), np.arange(0, base_n, 7)[:, None]
    found = points_below(correct, n, base, base_n)
    for i, j in ((0, 0), (5, 9), (20, 11), (len(correct) - 1, 3), (7, -1)):
        assert found[j, i] == float(100 * (Fraction(int(base[j, 0]), base_n) - Fraction(int(correct[i]), n)))


def test_seed_interval_is_the_textbook_formula():
    values = [0.5, 0.6, 0.7]
    half = 4.302652729749464 * stdev(values) / sqrt(3)
    assert seed_interval(values) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-9)
    assert seed_interval([0.4, 0.4]) == (0.4, 0.4)
    assert all(np.isnan(seed_interval([0.4])))


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    assert holm([0.01, float("nan"), 0.04, 0.03]).tolist() == pytest.approx(
        [0.03, float("nan"), 0.06, 0.06], nan_ok=True
    )
    assert np.isnan(holm([float("nan")])).all()
