"""Total correlation of a factorisation figure: closed form on toy rollouts, joint resampling, what is refused."""

import math

import numpy as np
import pandas as pd
import pytest

from t3d.errors import DataError
from t3d.evaluation.factorisation import Chain, per_rollout
from t3d.reporting.figures import factorisation
from tests.reporting.helpers import with_figure, write_gaps

MODELS = ("teacher", "t3d-seed0", "t3d-seed1")
INTERVALS = [1, 2, 4, 8]


def copies(symbols: int, count: int = 3) -> pd.DataFrame:
    """Rollouts of eight copies of one of `symbols` tokens, as a model sees them that knows the rule."""
    log_p = np.zeros((8, 8))
    log_p[0] = -math.log(symbols)
    chain = Chain(log_p, np.arange(1, 9), np.zeros(8, dtype=int))
    return per_rollout([chain] * count, [f"r{i}" for i in range(count)], INTERVALS)


def copied(symbols: float) -> list[float]:
    """Closed form: only the first of 8 / d steps meets an unknown symbol, of which d - 1 tokens know nothing."""
    return [(d - 1) * math.log(symbols) / (8 / d) for d in INTERVALS]


def test_the_lines_are_the_closed_form_and_seeds_are_averaged(tmp_path):
    tiny = with_figure(kind="factorisation")
    gaps = dict(zip(MODELS, map(copies, (16, 2, 8)), strict=True))
    manifests = [write_gaps(tiny, tmp_path, model, "rollouts", found) for model, found in gaps.items()]
    figure = factorisation.draw(tiny, tiny.figures["shown"], manifests)
    (axis,) = figure.axes
    teacher, student = axis.lines
    assert list(teacher.get_xdata()) == list(student.get_xdata()) == INTERVALS
    assert list(teacher.get_ydata()) == pytest.approx(copied(16))
    # (log 2 + log 8) / 2 = log 4
    assert list(student.get_ydata()) == pytest.approx(copied(4))
    assert axis.get_title("left") == "GSM_100% (3 rollouts)"
    assert {text.get_text() for text in axis.texts} == {"Original", "T3D"}


def noisy(scale: float, count: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for rollout in range(count):
        gap, terms = rng.gamma(2.0) * scale, int(rng.integers(4, 12))
        rows += [(f"r{rollout}", d, gap * (d - 1), terms * 8 // d) for d in (1, 2, 8)]
    return pd.DataFrame(rows, columns=["id", "interval", "gap", "terms"])


def test_the_band_is_the_bootstrap_of_rollouts():
    gaps = noisy(1.0)
    found = factorisation.total_correlation(gaps)
    assert found.index.tolist() == [1, 2, 8]
    wide = gaps[gaps["interval"] == 8]
    sums, counts = wide["gap"].to_numpy(), wide["terms"].to_numpy()
    rng = np.random.default_rng(7)
    drawn = [rng.integers(0, len(sums), len(sums)) for _ in range(4000)]
    ends = np.quantile([sums[d].sum() / counts[d].sum() for d in drawn], [0.025, 0.975])
    assert found.loc[8, ["low", "high"]].to_numpy() == pytest.approx(ends, rel=0.03)
    assert found.loc[8, "value"] == pytest.approx(sums.sum() / counts.sum())
    assert found.loc[1].tolist() == [0.0, 0.0, 0.0]


def test_models_and_intervals_are_resampled_together_in_whatever_order_rollouts_come():
    one, other = factorisation.total_correlation(noisy(1.0)), factorisation.total_correlation(noisy(3.0).iloc[::-1])
    np.testing.assert_allclose(3 * one.to_numpy(), other.to_numpy())


def test_models_scored_on_other_rollouts_are_not_compared(tmp_path):
    tiny = with_figure(kind="factorisation")
    gaps = {model: copies(4, count=2 if model == "teacher" else 3) for model in MODELS}
    manifests = [write_gaps(tiny, tmp_path, model, "rollouts", found) for model, found in gaps.items()]
    with pytest.raises(DataError, match="factorisation on rollouts: t3d was scored on other rollouts than teacher"):
        factorisation.draw(tiny, tiny.figures["shown"], manifests)


def test_zero_rollouts_have_no_interval():
    with pytest.raises(DataError, match="zero rollouts"):
        factorisation.total_correlation(copies(2, count=0))
