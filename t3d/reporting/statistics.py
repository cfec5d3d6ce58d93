"""How sure is an accuracy, and does a student differ from its teacher?

Two things are samples: questions and training seeds. `wilson`, `paired_test` and `paired_bootstrap` are about
questions, for given trained students. `seed_interval` is about seeds: how far another seed would move a number.
`tables.py` and `figures/` use them.
"""

from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from t3d.errors import DataError

_RESAMPLES = 10_000


def wilson(correct: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion.

    Args:
        correct: correct answers; a mean over seeds need not be whole.
        n: questions.

    Returns:
        Lower and upper end, in 0..1.

    Raises:
        DataError: there are no answers.
    """
    if n == 0:
        raise DataError("an interval over zero answers does not exist: the benchmark's prompt set holds no question.")
    low, high = proportion_confint(correct, n, alpha=0.05, method="wilson")
    return float(low), float(high)


def accuracy_of(correct: int, answers: int, n: int) -> dict[str, float]:
    """Accuracy in percent and the ends of its Wilson interval: `accuracy`, `low`, `high`.

    Args:
        correct: right answers of all seeds; one division of counts, so that no order of summation shows in a table.
        answers: of all seeds.
        n: questions, which the interval is over.

    Raises:
        DataError: there are no answers.
    """
    low, high = wilson(n * correct / answers if answers else 0, n)
    return {"accuracy": 100 * correct / answers, "low": 100 * low, "high": 100 * high}


def paired_test(ours: ArrayLike, base: ArrayLike) -> float:
    """p-value of a two-sided exact sign-flip test on questions: is the mean difference of `ours` and `base` zero?

    Under the null a question's difference is as likely with the other sign; the p-value is the share of all sign
    choices whose sum is at least as far from zero as the sum found. For one seed a difference is -1, 0 or 1, the signs
    are tosses of a fair coin, and this is the exact McNemar test.

    A sign test is wrong for several seeds. If two models are right 85 % of the time, the mean of one over three seeds
    is below a single 1 of the other far more often than above a single 0.

    Args:
        ours: share of seeds that answer a question correctly, [questions].
        base: the same of the model compared with, [questions], in the same order.

    Returns:
        The p-value; 1 when no question differs.
    """
    differences, _ = _whole_differences(ours, base)
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    # The sums are whole numbers, so that their distribution is a list.
    chance = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        flips = np.zeros(2 * size * count + 1)
        flips[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.convolve(chance, flips)
    sums = np.arange(len(chance)) - len(chance) // 2
    return min(1.0, float(chance[np.abs(sums) >= abs(differences.sum())].sum()))


def paired_bootstrap(ours: ArrayLike, base: ArrayLike) -> tuple[float, float]:
    """95 % percentile interval of the mean difference of `ours` and `base`, questions drawn anew 10 000 times.

    Args:
        ours: share of seeds that answer a question correctly, [questions].
        base: the same of the model compared with, [questions], in the same order.

    Returns:
        Lower and upper end, in -1..1; the same for equal arguments.
    """
    differences, unit = _whole_differences(ours, base)
    # A difference takes few values, and how often each is drawn is multinomial.
    values, counts = np.unique(differences, return_counts=True)
    n = counts.sum()
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=_RESAMPLES)
    low, high = np.quantile(drawn @ values, [0.025, 0.975]) / (n * unit)
    return float(low), float(high)


def points_below(
    correct: ArrayLike, answers: ArrayLike, base_correct: ArrayLike, base_answers: ArrayLike
) -> np.ndarray:
    """How many percentage points the accuracy `correct / answers` is below `base_correct / base_answers`.

    All arguments are counts. They meet in one division of whole numbers, which IEEE 754 rounds correctly: a loss of 5
    points in decimals equals 5.0 on every machine. The difference of two accuracies would not, since each is rounded.
    """
    ours, n, base, base_n = (np.asarray(x, dtype=np.int64) for x in (correct, answers, base_correct, base_answers))
    return 100 * (base * n - ours * base_n) / (n * base_n)


def _whole_differences(ours: ArrayLike, base: ArrayLike) -> tuple[np.ndarray, int]:
    """`ours` - `base` as whole numbers of a unit, [questions], and how many units make 1.

    Shares of k seeds differ by multiples of 1/k. Sums of whole numbers are exact in any order; those of thirds would
    depend on how many threads add them up.
    """
    differences = np.asarray(ours) - np.asarray(base)
    sizes = np.unique(np.abs(differences).round(9))
    unit = lcm(*(Fraction(size).limit_denominator(1000).denominator for size in sizes.tolist()))
    return np.rint(differences * unit).astype(np.int64), unit


def seed_interval(accuracies: ArrayLike) -> tuple[float, float]:
    """95 % t interval of the mean over training seeds; NaN for a single seed.

    Args:
        accuracies: one per seed.
    """
    values = np.asarray(accuracies, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - half), float(values.mean() + half)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's correction: p-values that may be compared with 0.05 however many there are; missing ones stay missing."""
    adjusted = np.array(p_values, dtype=float)
    present = ~np.isnan(adjusted)
    if present.any():
        adjusted[present] = multipletests(adjusted[present], method="holm")[1]
    return adjusted
