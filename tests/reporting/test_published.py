"""The tables that git keeps are those of the scores that git keeps."""

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from t3d.params import find
from t3d.provenance import lineage
from t3d.reporting import scores, tables
from tests.conftest import ROOT
from tests.reporting.helpers import unpack_pocket

PUBLISHED = ROOT / "results" / "pocket"
POCKET = find("pocket")
ONE_THREAD = ("table1", "table3", "table9", "humaneval")
"""Tables of each kind; those that git keeps were made with one thread."""


@pytest.fixture(scope="module")
def published(once):
    """The folder of the published scores; each is read, and compared with its manifest, once for all tables."""
    read, known = scores._read, {}

    def reads(cell, manifest):
        if cell not in known:
            known[cell] = read(cell, manifest)
        return known[cell]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_read", reads)
        yield once("pocket", unpack_pocket) / "data" / "pocket" / "scores"


@pytest.mark.parametrize(("name", "threads"), [*((n, 2) for n in POCKET.tables), *((n, 1) for n in ONE_THREAD)])
def test_a_pocket_table_follows_from_its_scores(published, tmp_path, name, threads):
    """On any number of BLAS threads: several add up in another order than one."""
    table = POCKET.tables[name]
    cells = [
        *lineage.score_keys_of(POCKET, table),
        *(place.cell for place in lineage.autoregressive_cells(POCKET, table)),
    ]
    manifests = [published / model / benchmark / f"{budget}.manifest.json" for model, benchmark, budget in cells]
    with threadpool_limits(threads):
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {threads}
        tables.write(POCKET, name, manifests, tmp_path / f"{name}.csv")
    for suffix in (".csv", ".md", ".tex"):
        assert (tmp_path / name).with_suffix(suffix).read_bytes() == (PUBLISHED / f"{name}{suffix}").read_bytes()
