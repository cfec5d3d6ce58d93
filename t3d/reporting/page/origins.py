"""Provenance for the page: what `t3d trace` says of every cell, each artefact written down once."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from t3d.errors import T3DError
from t3d.params import Experiment
from t3d.provenance import trace
from t3d.reporting.view import View

_ROUNDING = 1e-5
"""A table has six decimals; more than half of the last."""


def of_views(experiment: Experiment, views: Iterable[View]) -> dict[str, Any]:
    """Origins of all cells that are shown.

    Returns:
        `artefacts`, a list of origins; `cells`: cell -> `chains` (model on disk -> numbers in that list, the score
        first) and `accuracy` of the scores in percent, or `missing`, which says why there is neither.
    """
    commands = trace.commands_of()
    known: dict[str, int] = {}
    artefacts: list[dict[str, Any]] = []
    cells: dict[str, dict[str, Any]] = {}

    def number(origin: trace.Origin) -> int:
        content = asdict(origin)
        key = json.dumps(content)
        if key not in known:
            known[key] = len(artefacts)
            artefacts.append({name: value for name, value in content.items() if value is not None})
        return known[key]

    for view in views:
        for cell in dict.fromkeys(score for shown in view.cells() for score in shown.scores if score not in cells):
            try:
                found = trace.trace(experiment, view.name, cell, commands)
                chains = {model: [number(origin) for origin in of.origins] for model, of in found.items()}
                cells[cell] = {"chains": chains, "accuracy": trace.accuracy(found.values())}
            except T3DError as error:
                cells[cell] = {"missing": str(error)}
    return {"artefacts": artefacts, "cells": cells}


def outdated(view: View, origins: dict[str, Any]) -> list[str]:
    """Cells whose accuracy is not that of the scores that are here: the table was made from others."""
    found = []
    for cell in view.cells():
        if cell.accuracy is not None:
            here = origins["cells"][cell.scores[0]].get("accuracy")
            if here is not None and abs(here - cell.accuracy) > _ROUNDING:
                found.append(cell.scores[0])
    return list(dict.fromkeys(found))
