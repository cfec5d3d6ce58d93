"""How do two rows differ that no table shows side by side: of two experiments, or at two budgets?

    python -m benchmarks.compare_experiments qwen-block8/coder-b8/b8s8 qwen-right/coder/b4s4 gsm math mbpp humaneval

prints both accuracies for each benchmark, their difference, and the first as a share of the second. It reads the scores
below `data/` (`t3d pull scores`).
"""

import argparse

import numpy as np
import pandas as pd

from t3d.errors import DataError, ParameterError, in_a_sentence
from t3d.params import Budget, Experiment, find
from t3d.provenance import lineage, publish
from t3d.provenance.parquet import VERDICTS, of_artefact
from t3d.provenance.store import manifest_path
from t3d.reporting import scores
from t3d.reporting.statistics import paired_bootstrap

COLUMNS = ("n", "first", "second", "difference", "low", "high", "share", "share_low", "share_high")


def compare(first: str, second: str, benchmarks: list[str]) -> pd.DataFrame:
    """Two rows, compared question by question.

    Args:
        first: `<experiment>/<model>/<budget>`. The model is a teacher, a student (the mean of its seeds) or a run
            (`t3d-seed0`); the budget of an autoregressive model is `b1s1`.
        second: what it is compared with, in the same form.
        benchmarks: names that both experiments give to the same questions.

    Returns:
        Index: the benchmarks. Columns: n, questions; first and second, accuracy in percent; difference, first - second
        in points, with low and high; share, first / second in percent, with share_low and share_high. Intervals are
        95 % bootstrap intervals paired by question, not corrected for many tests.

    Raises:
        ParameterError: a text has another form, or its experiment has no such model or benchmark.
        MissingInputError: a score is not here.
        DataError: the two answered different questions.
        T3DError: as `scores.by_cell`.
    """
    rows = {}
    for benchmark in benchmarks:
        ours, theirs = _right_shares(first, benchmark), _right_shares(second, benchmark)
        if set(ours.index) != set(theirs.index):
            raise DataError(f"{benchmark}: {first} answered {len(ours)} questions, {second} {len(theirs)} others.")
        theirs = theirs[ours.index]
        difference = (ours.mean() - theirs.mean(), *paired_bootstrap(ours, theirs))
        values = 100 * np.array([ours.mean(), theirs.mean(), *difference, *_share(ours, theirs)])
        rows[benchmark] = [len(ours), *values]
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def _share(ours: pd.Series, theirs: pd.Series) -> tuple[float, float, float]:
    """`ours` over `theirs` and the ends of its interval; infinite or NaN where `theirs` may be 0."""
    # Two models answer in few ways, and how often each is drawn is multinomial.
    answers, counts = np.unique(np.stack([ours, theirs], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(ours), counts / len(ours), size=10_000)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.divide(*(counts @ answers))
        low, high = np.quantile(np.divide(*(drawn @ answers).T), [0.025, 0.975])
    return float(share), float(low), float(high)


def _right_shares(place: str, benchmark: str) -> pd.Series:
    """Share of seeds that answer a question correctly, by question."""
    name, *model_and_budget = place.split("/")
    if len(model_and_budget) != 2:
        raise ParameterError(f"{place!r}: write experiment/model/budget, as in qwen-right/coder/b4s4.")
    experiment = find(name)
    model, budget = model_and_budget
    cells = [(run, benchmark, budget) for run in _runs(experiment, model)]
    if benchmark not in experiment.benchmarks:
        known = ", ".join(experiment.benchmarks)
        raise ParameterError(f"experiment {experiment.name} has no benchmark {benchmark!r}: {known}.")
    try:
        Budget.parse(budget)
    except ValueError as error:
        raise ParameterError(f"{place!r}: {error}.") from error
    publish.check_manifests(experiment, ["/".join(("scores", *cell)) for cell in cells])
    manifests = [manifest_path(experiment, "/".join(("scores", *cell))) for cell in cells]
    of_cells = scores.by_cell(experiment, cells, manifests, kind="scores").values()
    verdicts = [of_artefact(manifest, VERDICTS, ["id", "correct"]).to_pandas() for manifest in of_cells]
    return pd.concat(verdicts).groupby("id", sort=False)["correct"].mean()


def _runs(experiment: Experiment, model: str) -> list[str]:
    if model in lineage.runs(experiment):
        return [model]
    if not (found := list(lineage.runs_of(experiment, model))):
        known = ", ".join([*experiment.teachers, *experiment.students])
        raise ParameterError(f"experiment {experiment.name} has no model {model!r}: {known}.")
    return found


def main() -> None:
    """Print `compare` of what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("first", help="experiment/model/budget")
    parser.add_argument("second", help="the same, which is taken from it")
    parser.add_argument("benchmarks", nargs="+", help="names that both experiments have")
    given = parser.parse_args()
    with in_a_sentence():
        print(compare(given.first, given.second, given.benchmarks).round(1).to_string())


if __name__ == "__main__":
    main()
