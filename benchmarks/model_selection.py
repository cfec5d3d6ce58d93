"""Which row does an experiment select on validation problems? The rules that its parameters state.

    python -m benchmarks.model_selection pocket beyond together
    python -m benchmarks.model_selection qwen-right tuning --rates --pooled --budgets b4s2 b4s1

prints, for the rows of these tables, what the rule looks at, and with `--rates` what it chooses. It uses static budgets
only.
"""

import argparse
from collections.abc import Collection
from itertools import chain

import numpy as np
import pandas as pd

from t3d.errors import ParameterError, in_a_sentence
from t3d.params import AccuracyTable, Experiment, find
from t3d.provenance import lineage, publish
from t3d.provenance.store import manifest_path
from t3d.reporting import scores
from t3d.reporting.accuracy import base_label
from t3d.reporting.statistics import paired_bootstrap, points_below

TOLERANCE = 1.5
"""Points that a row may lose against the teacher at one token per step."""


def summary(
    experiment: Experiment, names: list[str], budgets: Collection[str] = (), pooled: bool = False
) -> pd.DataFrame:
    """What the rule looks at, one row per method of accuracy tables `names`, whose scores are below `data/`.

    The tables share teacher, base, benchmarks and budgets. Their benchmarks have as many questions each, or are pooled.

    Args:
        experiment: whose tables they are.
        names: of the tables.
        budgets: static budgets of the tables that the mean is over; by default all.
        pooled: judge what a row loses over the questions of all benchmarks together, not in its worst benchmark.

    Returns:
        Index: the methods' labels, without the teacher's. Columns, percent and points: mean, over answers to all
        benchmarks' questions at `budgets` by all seeds; gain over the base's mean, gain_low and gain_high, its 95 %
        bootstrap interval paired by question; lost, against the teacher at one token per step.

    Raises:
        ParameterError: there is no such table, they show nothing but the teacher, none has one of the budgets, or none
            shows the teacher at one token per step.
        MissingInputError: a score is not here.
        T3DError: as `scores.load`.
    """
    for name in names:
        if not isinstance(experiment.tables.get(name), AccuracyTable):
            others = ", ".join(key for key, table in experiment.tables.items() if isinstance(table, AccuracyTable))
            raise ParameterError(f"experiment {experiment.name} has no accuracy table {name!r}: {others or 'none'}.")
    tables = [experiment.tables[name] for name in names]
    teacher, base = experiment.teachers[tables[0].teacher].label, base_label(experiment, tables[0])
    if {row.label for table in tables for row in lineage.rows_of(experiment, table)} == {teacher}:
        raise ParameterError(f"{', '.join(names)}: no row but the teacher {teacher!r}; there is nothing to select.")
    artefacts = [["/".join(("scores", *cell)) for cell in lineage.score_keys_of(experiment, table)] for table in tables]
    publish.check_manifests(experiment, dict.fromkeys(chain(*artefacts)))
    parts = []
    for table, of_table in zip(tables, artefacts, strict=True):
        parts.append(scores.load(experiment, table, [manifest_path(experiment, name) for name in of_table])[0])
    frame = pd.concat(parts).drop_duplicates(["method", "seed", "benchmark", "budget", "id"])
    frame = frame[frame["threshold"].isna()]
    known = frame["budget"].unique().tolist()
    if strange := [budget for budget in budgets if budget not in known]:
        raise ParameterError(f"{', '.join(names)}: no static budget {strange[0]!r}; there are {', '.join(known)}.")
    counted = frame[frame["budget"].isin(list(budgets) or known)]
    # Seeds first, then budgets: each question counts once.
    shares = counted.groupby(["benchmark", "tokens_per_step", "block_size", "id", "method"])["correct"].mean().unstack()
    questions = shares.groupby(level=["benchmark", "id"]).mean()
    intervals = {method: paired_bootstrap(right, questions[base]) for method, right in questions.items()}
    # Counts of answers: what the rule compares must not hang on the last bit of a sum.
    right, answers = (getattr(counted.groupby("method")["correct"], name)() for name in ("sum", "count"))
    rows = pd.DataFrame({"mean": 100 * right / answers})
    rows["gain"] = rows["mean"] - rows["mean"][base]
    rows[["gain_low", "gain_high"]] = 100 * np.array([intervals[method] for method in rows.index])
    full_step = frame[frame["tokens_per_step"] == 1]
    if pooled:
        full_step = full_step.assign(benchmark="all")
    of_each = full_step.groupby(["benchmark", "method"])["correct"]
    right, answers = of_each.sum().unstack(), of_each.count().unstack()
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


def chosen_rates(experiment: Experiment, rows: pd.DataFrame) -> list[str]:
    """What `select` takes of each group of students that differ in nothing but rate, label and seeds.

    Args:
        experiment: whose students the rows are.
        rows: of `summary`.

    Returns:
        A label for each group of two students or more, in the experiment's order.
    """
    groups: dict[str, list[str]] = {}
    for student in experiment.students.values():
        if student.label in rows.index:
            optimizer = student.optimizer.model_copy(update={"learning_rate": 0.0})
            rest = student.model_copy(update={"label": "", "seeds": (), "optimizer": optimizer})
            groups.setdefault(rest.model_dump_json(), []).append(student.label)
    return [select(rows.loc[labels]) for labels in groups.values() if len(labels) > 1]


def main() -> None:
    """Print `summary` of the tables that the command line names, with `chosen_rates` if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="name of a file of params/")
    parser.add_argument("tables", nargs="+", help="its accuracy tables on validation problems")
    parser.add_argument(
        "--budgets",
        nargs="+",
        default=[],
        help="the mean is over these; by default over all. Whether --budgets and --pooled are right depends on the "
        "experiment's rule, see params/EXPERIMENT.yaml: pocket needs neither, qwen-right both (b4s2 b4s1)",
    )
    parser.add_argument(
        "--pooled",
        action="store_true",
        help="judge the loss over all questions, not per benchmark; see --budgets",
    )
    parser.add_argument("--rates", action="store_true", help="mark the chosen one of rows that differ in rate only")
    given = parser.parse_args()
    with in_a_sentence():
        experiment = find(given.experiment)
        rows = summary(experiment, given.tables, given.budgets, given.pooled)
        chosen = chosen_rates(experiment, rows) if given.rates else []
        if chosen:
            rows["chosen"] = ["yes" if label in chosen else "" for label in rows.index]
        print(rows.round(2).to_string())
        if given.rates and not chosen:
            print(f"\nNo two rows of {', '.join(given.tables)} differ in the learning rate only: --rates chooses none.")


if __name__ == "__main__":
    main()
