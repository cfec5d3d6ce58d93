"""What it cost, from the receipts that are here: a row per kind of artefact."""

from collections.abc import Iterable
from typing import Any

from t3d.params import Experiment, Product
from t3d.provenance import lineage, store
from t3d.reporting.view import DASH

_STEPS = {
    "sources": "fetch",
    "teachers": "teacher",
    "prompts": "prompts",
    "generations": "generate",
    "verdicts": "judge",
    "trajectories": "roll out",
    "students": "distil",
    "answers": "answer",
    "scores": "score",
    "factorisation": "factorisation",
}
_GPU_MEMORY = "Peak GPU memory"


def of_products(experiment: Experiment, products: Iterable[Product]) -> list[dict[str, str]]:
    """The costs of everything behind some tables and figures, in the order of the DAG: column -> text.

    The numbers are of the jobs whose receipts are here, and kinds of which none is here are left out; what no receipt
    says is a dash. Where no job had a GPU there is no column for its memory.
    """
    by_kind: dict[str, list[dict[str, Any] | None]] = {}
    for artefact in lineage.artefacts_of(experiment, products):
        by_kind.setdefault(artefact.partition("/")[0], []).append(store.find_receipt(experiment, artefact))
    rows = [_cost(kind, by_kind[kind]) for kind in _STEPS if any(by_kind.get(kind, ()))]
    on_gpus = any(row[_GPU_MEMORY] for row in rows)
    return [{name: text or DASH for name, text in row.items() if on_gpus or name != _GPU_MEMORY} for row in rows]


def _cost(kind: str, found: list[dict[str, Any] | None]) -> dict[str, str]:
    here = [receipt for receipt in found if receipt is not None]
    seconds = [receipt["seconds"] for receipt in here]
    # A score's receipt repeats the speed of its answers.
    speeds = [] if kind == "scores" else [speed for receipt in here if (speed := _speed(receipt))]
    return {
        "Stage": _STEPS[kind],
        "Jobs": str(len(here)) if len(here) == len(found) else f"{len(here)} of {len(found)}",
        "Time": _duration(sum(seconds)),
        "Longest job": _duration(max(seconds)),
        "Peak memory": _bytes(here, "peak_memory_mb"),
        _GPU_MEMORY: _bytes(here, "peak_gpu_memory_mb"),
        "Tokens/s": _span(speeds),
        "Device": ", ".join(sorted({receipt["device"] for receipt in here})),
    }


def _speed(receipt: dict[str, Any]) -> float | None:
    return next((receipt[key]["tokens_per_second"] for key in ("decoding", "speed") if key in receipt), None)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(here: list[dict[str, Any]], key: str) -> str:
    most = max((receipt[key] for receipt in here if key in receipt), default=None)
    return "" if most is None else f"{most} MB" if most < 1000 else f"{most / 1024:.1f} GB"


def _span(speeds: list[float]) -> str:
    if not speeds:
        return ""
    low, high = f"{min(speeds):,.0f}", f"{max(speeds):,.0f}"
    return low if low == high else f"{low} to {high}"
