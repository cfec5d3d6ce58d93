"""What it cost, from the receipts that are here: a row per kind of artefact."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from t3d.params import Experiment, Product
from t3d.provenance import lineage, store

_STEPS = {
    "sources": "fetch",
    "teachers": "teacher",
    "prompts": "prompts",
    "generations": "generate",
    "trajectories": "roll out",
    "students": "distil",
    "answers": "answer",
    "scores": "score",
    "factorisation": "factorisation",
}


@dataclass(frozen=True)
class Cost:
    """One kind of artefact; what no receipt says is empty."""

    step: str
    jobs: int
    here: int
    """Jobs whose receipt is here; the numbers are of these."""
    minutes: str
    longest: str
    memory: str
    gpu_memory: str
    speed: str
    devices: str


def of_products(experiment: Experiment, products: Iterable[Product]) -> list[Cost]:
    """The costs of everything behind some tables and figures, in the order of the DAG."""
    by_kind: dict[str, list[dict[str, Any] | None]] = {}
    for artefact in lineage.artefacts_of(experiment, products):
        by_kind.setdefault(artefact.partition("/")[0], []).append(store.find_receipt(experiment, artefact))
    return [_cost(kind, by_kind[kind]) for kind in _STEPS if kind in by_kind]


def _cost(kind: str, found: list[dict[str, Any] | None]) -> Cost:
    here = [receipt for receipt in found if receipt is not None]
    seconds = [receipt["seconds"] for receipt in here]
    # A score's receipt repeats the speed of its answers.
    speeds = [] if kind == "scores" else [speed for receipt in here if (speed := _speed(receipt))]
    return Cost(
        step=_STEPS[kind],
        jobs=len(found),
        here=len(here),
        minutes=f"{sum(seconds) / 60:.1f}" if here else "",
        longest=f"{max(seconds) / 60:.1f}" if here else "",
        memory=_gigabytes(here, "peak_memory_mb"),
        gpu_memory=_gigabytes(here, "peak_gpu_memory_mb"),
        speed=_span(speeds),
        devices=", ".join(sorted({receipt["device"] for receipt in here})),
    )


def _speed(receipt: dict[str, Any]) -> float | None:
    return next((receipt[key]["tokens_per_second"] for key in ("decoding", "speed") if key in receipt), None)


def _gigabytes(here: list[dict[str, Any]], key: str) -> str:
    sizes = [receipt[key] for receipt in here if key in receipt]
    return f"{max(sizes) / 1024:.1f}" if sizes else ""


def _span(speeds: list[float]) -> str:
    if not speeds:
        return ""
    low, high = f"{min(speeds):,.0f}", f"{max(speeds):,.0f}"
    return low if low == high else f"{low} to {high}"
