"""Accuracy under parallelism (AUP), and the fastest budget that keeps the teacher's accuracy (Table 9).

AUP (arXiv 2601.07568) is a weighted area under accuracy y against tokens per forward rho:

    AUP = rho_1 y_1 + sum_{i>1} (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2,
    W(y) = min(exp(-3 (1 - y / y_max)), 1),

over the points with y_i >= y_1 - 5. A point below that is left out, and its neighbours are joined; the curve does not
end there. AUP has limits. It depends on which budgets were run and on y_max; its first term is not weighted; a point
that falls just below y_1 - 5 takes its whole area along. So y_max is declared in the experiment, every method has the
same budgets, and an interval stands beside the number.

Accuracies are multiples of 1/n and often lie exactly on y_1 - 5, so every limit here is checked on counts of answers.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from t3d.params import Budget, Experiment, ParallelismTable
from t3d.provenance import lineage
from t3d.reporting import view
from t3d.reporting.csv_format import rounded
from t3d.reporting.statistics import points_below
from t3d.reporting.view import DASH, Cell, Group, Row, View

PENALTY = 3.0
"""alpha of the published definition."""
ALLOWED_LOSS = 5.0
"""Points of accuracy that may be lost: of a point of the area below y_1, as published, and of the fastest budget below
the teacher's accuracy at its fewest tokens per forward."""
_RESAMPLES = 2_000

COLUMNS = (
    *("method", "benchmark", "block_size", "n", "seeds", "aup", "aup_low", "aup_high", "points", "matched_accuracy"),
    *("fastest_budget", "accuracy", "tokens_per_forward", "tokens_per_second"),
)


def aup(parallelism: np.ndarray, correct: np.ndarray, answers: int, best: float) -> np.ndarray:
    """Accuracy under parallelism.

    Args:
        parallelism: tokens per forward rho_i, ascending, `[points]`.
        correct: how many answers are right, whole numbers, `[..., points]`.
        answers: of how many; accuracy y_i is 100 correct / answers.
        best: y_max in percent.

    Returns:
        `[...]`.
    """
    kept = _kept(correct, answers)
    accuracy = 100 * correct / answers
    weighted = accuracy * np.minimum(np.exp(-PENALTY * (1 - accuracy / best)), 1.0)
    area = parallelism[0] * accuracy[..., 0]
    last_rho, last_height = np.full(area.shape, parallelism[0]), weighted[..., 0]
    for i in range(1, len(parallelism)):
        # The next point is joined to the last that was kept.
        step = (parallelism[i] - last_rho) * (weighted[..., i] + last_height) / 2
        area = np.where(kept[..., i], area + step, area)
        last_rho = np.where(kept[..., i], parallelism[i], last_rho)
        last_height = np.where(kept[..., i], weighted[..., i], last_height)
    return area


def _kept(correct: np.ndarray, answers: int) -> np.ndarray:
    """Which points count, `[..., points]`."""
    return points_below(correct, answers, correct[..., :1], answers) <= ALLOWED_LOSS


def parallelism_table(
    experiment: Experiment, table: ParallelismTable, frame: pd.DataFrame, totals: pd.DataFrame
) -> pd.DataFrame:
    """One row per benchmark, block size and method.

    Args:
        frame: per question, from `scores.load`.
        totals: per cell and seed, from `scores.load`.

    Returns:
        `COLUMNS`: AUP with its 95 % bootstrap interval (questions drawn anew) and the number of points in it;
        `matched_accuracy`, the teacher's at its fewest tokens per forward less `ALLOWED_LOSS`; the method's
        budget with most tokens per second among those at least that accurate (empty where none is), with its accuracy
        in percent, tokens per forward and tokens per second.
    """
    blocks = sorted({Budget.parse(text).block_size for text in table.budgets})
    rows = []
    for benchmark in table.benchmarks:
        for block in blocks:
            budgets = [text for text in table.budgets if Budget.parse(text).block_size == block]
            teacher = None
            for shown in lineage.rows_of(experiment, table):
                mine = (frame["method"] == shown.label) & (frame["benchmark"] == benchmark)
                points = _points(frame[mine], totals[(totals["method"] == shown.label)], benchmark, budgets)
                teacher = points.iloc[0] if teacher is None else teacher
                row = {"method": shown.label, "benchmark": benchmark, "block_size": block}
                row["matched_accuracy"] = teacher["accuracy"] - ALLOWED_LOSS
                row |= _area(points, table.best_accuracy[benchmark])
                lost = points_below(points["correct"], points["answers"], teacher["correct"], teacher["answers"])
                row |= _fastest(points[lost <= ALLOWED_LOSS])
                row["seeds"] = frame[mine]["seed"].nunique()
                rows.append(row)
    return rounded(pd.DataFrame(rows, columns=list(COLUMNS)))


def _points(frame: pd.DataFrame, totals: pd.DataFrame, benchmark: str, budgets: list[str]) -> pd.DataFrame:
    """One row per budget in order of tokens per forward: accuracy, speed, and how many seeds are right by question."""
    rows = []
    for budget in budgets:
        cell = totals[(totals["benchmark"] == benchmark) & (totals["budget"] == budget)]
        given = frame[frame["budget"] == budget]
        correct = int(given["correct"].sum())
        forwards = (cell["denoising_steps"] + cell["commit_passes"]).sum()
        rows.append(
            {
                "budget": budget,
                "correct": correct,
                "answers": len(given),
                "accuracy": 100 * correct / len(given),
                "tokens_per_forward": cell["response_tokens"].sum() / forwards,
                "tokens_per_second": cell["tokens_per_second"].mean(),
                "questions": given.groupby("id")["correct"].sum().to_numpy(dtype=np.int64),
            }
        )
    return pd.DataFrame(rows).sort_values("tokens_per_forward", kind="stable", ignore_index=True)


def _area(points: pd.DataFrame, best: float) -> dict[str, Any]:
    rho, correct, answers = (points[key].to_numpy() for key in ("tokens_per_forward", "correct", "answers"))
    questions = np.stack(points["questions"].tolist())
    n = questions.shape[1]
    # Sums of whole numbers, exact in floats too, which BLAS adds up.
    right = (_drawn(n) @ questions.T.astype(float)).astype(np.int64)
    # Every budget was answered by as many seeds, so that all points have as many answers.
    low, high = np.quantile(aup(rho, right, answers[0], best), [0.025, 0.975])
    area, kept = float(aup(rho, correct, answers[0], best)), int(_kept(correct, answers[0]).sum())
    return {"n": n, "aup": area, "aup_low": low, "aup_high": high, "points": kept}


@lru_cache(maxsize=2)
def _drawn(n: int) -> np.ndarray:
    """How often each of n questions is drawn, `[resamples, n]`: the same for all rows, and most of their time."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(float)


def _fastest(good: pd.DataFrame) -> dict[str, Any]:
    if good.empty:
        return {}
    best = good.loc[good["tokens_per_second"].idxmax()]
    return {"fastest_budget": best["budget"], **best[["accuracy", "tokens_per_forward", "tokens_per_second"]]}


def parallelism_view(
    experiment: Experiment, name: str, table: ParallelismTable, tidy: pd.DataFrame, speeds: pd.DataFrame
) -> View:
    """AUP, and what the fastest budget at matched accuracy gives, one group of rows per benchmark and block size."""
    names = view.names_of(experiment, table)
    groups: list[Group] = []
    for (benchmark, block), group in tidy.groupby(["benchmark", "block_size"], sort=False):
        budgets = [text for text in table.budgets if Budget.parse(text).block_size == block]
        rows: list[Row] = []
        for row in group.itertuples():
            scores = {budget: names[str(row.method), str(benchmark), budget] for budget in budgets}
            area = Cell(
                f"{row.aup:.1f}",
                interval=view.interval(row.aup_low, row.aup_high),
                detail=(f"95 % bootstrap interval {row.aup_low:.1f} to {row.aup_high:.1f}", view.counted(row)),
                scores=tuple(scores.values()),
                best=row.aup == group["aup"].max(),
            )
            fastest = [Cell(DASH)] * 4
            if not pd.isna(row.fastest_budget):
                score = (scores[str(row.fastest_budget)],)
                matched = (f"matched accuracy: at least {row.matched_accuracy:.1f}",)
                fastest = [
                    Cell(str(row.fastest_budget), scores=score, detail=matched),
                    Cell(f"{row.accuracy:.1f}", scores=score, accuracy=row.accuracy),
                    Cell(f"{row.tokens_per_forward:.1f}", scores=score),
                    Cell(f"{row.tokens_per_second:.1f}", scores=score),
                ]
            rows.append((str(row.method), (area, Cell(f"{row.points}"), *fastest)))
        groups.append(((experiment.benchmarks[str(benchmark)].label, f"{block}"), rows))
    best = ", ".join(f"{experiment.benchmarks[b].label} {value:g}" for b, value in table.best_accuracy.items())
    return View(
        name,
        table.caption,
        common=("Benchmark", "Block"),
        columns=("AUP", "Points", "Fastest", "Accuracy", "Tokens per forward", "Tokens/s"),
        groups=groups,
        note=view.note(
            "AUP: accuracy under parallelism (arXiv 2601.07568) over tokens per forward, commit passes counted, with "
            f"its 95 % bootstrap interval over questions; penalty {PENALTY:g}, y_max declared ({best}); points more "
            f"than {ALLOWED_LOSS:g} below the curve's first point are left out. It depends on the budgets that were "
            "run.",
            f"Fastest: the budget with most tokens/s whose accuracy is at most {ALLOWED_LOSS:g} points below the "
            f"teacher's at its fewest tokens per forward; {DASH}: none is.",
            view.about_samples(experiment, table, tidy),
            view.about_speed(speeds),
        ),
    )
