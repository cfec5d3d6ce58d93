"""Which row does an experiment select on validation problems? The rule that `params/pocket.yaml` states.

    python -m benchmarks.model_selection pocket beyond together

prints, for the rows of these tables, what the rule looks at. It uses static budgets only.
"""

import argparse

import numpy as np
import pandas as pd

from t3d.errors import ParameterError, in_a_sentence
from t3d.params import AccuracyTable, Experiment, find
from t3d.provenance import lineage
from t3d.provenance.store import manifest_path
from t3d.reporting import scores
from t3d.reporting.accuracy import base_label
from t3d.reporting.statistics import paired_bootstrap, points_below

TOLERANCE = 1.5
"""Points that a row may lose against the teacher at one token per step."""


def summary(experiment: Experiment, names: list[str]) -> pd.DataFrame:
    """What the rule looks at, one row per method of accuracy tables `names`, whose scores are below `data/`.

    The tables share teacher, base, benchmarks and budgets, and their benchmarks have as many questions each.

    Returns:
        Index: the methods' labels, without the teacher's. Columns, percent and points: mean, over benchmarks, static
        budgets and seeds; gain over the base's mean, gain_low and gain_high, its 95 % bootstrap interval paired by
        question; lost, against the teacher at one token per step, in the benchmark where it is most.

    Raises:
        ParameterError: there is no such table, or none shows the teacher at one token per step.
        T3DError: as `scores.load`.
    """
    for name in names:
        if not isinstance(experiment.tables.get(name), AccuracyTable):
            known = ", ".join(key for key, table in experiment.tables.items() if isinstance(table, AccuracyTable))
            raise ParameterError(f"experiment {experiment.name} has no accuracy table {name!r}: {known or 'none'}.")
    tables = [experiment.tables[name] for name in names]
    parts = []
    for table in tables:
        artefacts = ["/".join(("scores", *cell)) for cell in lineage.score_keys_of(experiment, table)]
        parts.append(scores.load(experiment, table, [manifest_path(experiment, name) for name in artefacts])[0])
    frame = pd.concat(parts).drop_duplicates(["method", "seed", "benchmark", "budget", "id"])
    frame = frame[frame["threshold"].isna()]
    # Seeds first, then budgets: each question counts once.
    shares = frame.groupby(["benchmark", "tokens_per_step", "block_size", "id", "method"])["correct"].mean().unstack()
    questions = shares.groupby(level=["benchmark", "id"]).mean()
    teacher, base = experiment.teachers[tables[0].teacher].label, base_label(experiment, tables[0])
    intervals = {method: paired_bootstrap(right, questions[base]) for method, right in questions.items()}
    # Counts of answers: what the rule compares must not hang on the last bit of a sum.
    right, answers = (getattr(frame.groupby("method")["correct"], name)() for name in ("sum", "count"))
    rows = pd.DataFrame({"mean": 100 * right / answers})
    rows["gain"] = rows["mean"] - rows["mean"][base]
    rows[["gain_low", "gain_high"]] = 100 * np.array([intervals[method] for method in rows.index])
    full_step = frame[frame["tokens_per_step"] == 1].groupby(["benchmark", "method"])["correct"]
    right, answers = full_step.sum().unstack(), full_step.count().unstack()
    if teacher not in right:
        raise ParameterError(f"{', '.join(names)}: {teacher} has no score at one token per step; the rule needs it.")
    lost = points_below(right, answers, right[[teacher]], answers[[teacher]])
    rows["lost"] = pd.DataFrame(lost, columns=right.columns).max()
    return rows.drop(index=teacher)


def select(rows: pd.DataFrame) -> str:
    """The row with the highest mean of those that lose `TOLERANCE` at most; if none does, that which loses least.

    Args:
        rows: of `summary`, those to choose from.
    """
    stay = rows[rows["lost"] <= TOLERANCE]
    return str(rows["lost"].idxmin() if stay.empty else stay["mean"].idxmax())


def main() -> None:
    """Print `summary` of the tables that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="name of a file of params/")
    parser.add_argument("tables", nargs="+", help="its accuracy tables on validation problems")
    given = parser.parse_args()
    with in_a_sentence():
        print(summary(find(given.experiment), given.tables).round(2).to_string())


if __name__ == "__main__":
    main()
