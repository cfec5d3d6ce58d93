"""How many jobs are left, and how long they take: for `t3d status`, which says what is there (`status.py`)."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t3d.params import Experiment
from t3d.provenance import lineage, records
from t3d.provenance.store import manifest_path


@dataclass(frozen=True)
class Remaining:
    """The jobs that Snakemake would plan, and the sum of their times, start-up included."""

    jobs: int
    seconds: float
    unknown: int
    """Jobs of kinds of which none was made yet: their time is not in `seconds`."""
    by: str
    """`records`: the median of what was made, as Snakemake or a receipt recorded it; `cost`: `t3d cost` on one A100."""


def of(
    experiment: Experiment,
    every: Iterable[str],
    receipts: dict[str, dict[str, Any]],
    left: list[str],
    products: list[str],
) -> Remaining:
    """What is left to do.

    Args:
        experiment: whose jobs they are.
        every: its artefacts, whose receipts say how long a job of a kind takes.
        receipts: artefact -> receipt, of those that are here.
        left: artefacts to make.
        products: tables, figures and copies to make, by path.
    """
    jobs = len(left) + len(products)
    if experiment.gpus:
        from t3d.terminal import cost  # which an experiment without GPUs does not need

        return Remaining(jobs, sum(cost.of_artefact(experiment, artefact).seconds for artefact in left), 0, "cost")
    if not jobs:
        return Remaining(0, 0.0, 0, "records")
    took: dict[str, list[float]] = defaultdict(list)
    there = {str(Path("results", experiment.name, name)) for name in lineage.targets(experiment, on_request=True)}
    kinds = set(map(_kind, [*left, *products]))
    for name in [*every, *there, *products]:
        if _kind(name) in kinds and (seconds := _seconds(experiment, name, receipts.get(name, {}))) is not None:
            took[_kind(name)].append(seconds)
    known = [took[_kind(name)] for name in [*left, *products] if _kind(name) in took]
    return Remaining(jobs, sum(map(_median, known)), jobs - len(known), "records")


def _kind(name: str) -> str:
    """Jobs of one kind take about as long: stages, tables, figures, copies."""
    stage, _, rest = name.partition("/")
    return Path(name).suffix + str(rest.count("/")) if stage == "results" else stage


def _median(values: list[float]) -> float:
    """As `statistics.median`, which takes longer to load than the rest of this module."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _seconds(experiment: Experiment, name: str, receipt: dict[str, Any]) -> float | None:
    """How long the job of an artefact, table, figure or copy took, start-up included; None if nobody knows."""
    record = records.of(name if name.startswith("results/") else str(manifest_path(experiment, name)))
    if "endtime" in record:
        return record["endtime"] - record["starttime"]
    return receipt["seconds"] + receipt.get("start_seconds", 0.0) if "seconds" in receipt else None
