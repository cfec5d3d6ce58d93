"""What published artefacts are made of, and what their tables show, stays as it is.

`identities.json` holds one digest for each group of artefacts (`students/t3d-seed0`, `scores/t3d-seed0` with all their
benchmarks and budgets) and one for the rows and cells of each table and figure. If this fails, published artefacts no
longer fit the parameters. Where that is meant: `python -m tests.test_identities > tests/identities.json`.
"""

import hashlib
import json
import sys
from collections import defaultdict

import pytest

from t3d.params import Comparison, Experiment, Product, find
from t3d.provenance import lineage, recipes
from tests.conftest import ROOT

EXPERIMENTS = ("demo", "pocket", "paper")


def identities(name: str) -> dict[str, dict[str, str]]:
    """Group of artefacts, or table or figure -> digest."""
    experiment = find(name)
    products = lineage.targets(experiment, on_request=True)
    material = {path: _material(experiment, product) for path, product in products.items()}
    groups = defaultdict(list)
    for artefact in lineage.origins_of(experiment, [a for artefacts in material.values() for a in artefacts]):
        line = f"{artefact} {recipes.digest(experiment, artefact)}"
        groups["/".join(artefact.split("/")[:2])].append(line)
    rows = {path: lineage.rows_of(experiment, p) for path, p in products.items() if isinstance(p, Comparison)}
    labels = {path: [row.label for row in shown] for path, shown in rows.items()}
    shown = {path: json.dumps([artefacts, labels.get(path)]) for path, artefacts in material.items()}
    made = {group: "\n".join(sorted(lines)) for group, lines in groups.items()}
    return {"artefacts": _hashed(made), "products": _hashed(shown)}


def _material(experiment: Experiment, product: Product) -> list[str]:
    """What a table or figure shows, its autoregressive row too, whether or not vLLM is installed here."""
    if not isinstance(product, Comparison):
        return lineage.inputs_of_target(experiment, product)
    kind = "answers" if product.kind == "commits" else "scores"
    return ["/".join((kind, *place.cell)) for place in lineage.all_cells_of(experiment, product)]


def _hashed(contents: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in sorted(contents.items())}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_published_artefacts_still_fit(name):
    recorded = json.loads((ROOT / "tests" / "identities.json").read_text())
    assert identities(name) == recorded[name]


if __name__ == "__main__":
    json.dump({name: identities(name) for name in EXPERIMENTS}, sys.stdout, indent=1)
    print()
