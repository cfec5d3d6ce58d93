"""The tables that git keeps are those of the scores that git keeps."""

import pytest
from threadpoolctl import threadpool_limits

from t3d.params import find
from t3d.provenance import lineage
from t3d.reporting import tables
from tests.conftest import ROOT
from tests.reporting.helpers import unpack_pocket

POCKET = ROOT / "results" / "pocket"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with the published scores in it."""
    return unpack_pocket(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", find("pocket").tables)
def test_a_pocket_table_follows_from_its_scores(unpacked, tmp_path, name, threads):
    """On any number of BLAS threads: several add up in another order than one."""
    pocket, folder = find("pocket"), unpacked / "data" / "pocket" / "scores"
    table = pocket.tables[name]
    cells = [
        *lineage.score_keys_of(pocket, table),
        *(place.cell for place in lineage.autoregressive_cells(pocket, table)),
    ]
    manifests = [folder / model / benchmark / f"{budget}.manifest.json" for model, benchmark, budget in cells]
    with threadpool_limits(threads):
        tables.write(pocket, name, manifests, tmp_path / f"{name}.csv")
    for suffix in (".csv", ".md", ".tex"):
        assert (tmp_path / name).with_suffix(suffix).read_bytes() == (POCKET / f"{name}{suffix}").read_bytes()
