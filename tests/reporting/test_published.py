"""The tables that git keeps are those of the scores that git keeps."""

import pytest
from threadpoolctl import threadpool_limits

from t3d.params import find
from t3d.provenance import lineage
from t3d.reporting import tables
from tests.conftest import ROOT
from tests.reporting.helpers import unpack


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with the published scores of each experiment in it."""
    return {name: unpack(name, tmp_path_factory.mktemp(name)) for name in ("pocket", "qwen")}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("key", "name"), [(key, name) for key in ("pocket", "qwen") for name in find(key).tables])
def test_a_published_table_follows_from_its_scores(unpacked, tmp_path, key, name, threads):
    """On any number of BLAS threads: several add up in another order than one."""
    experiment, folder = find(key), unpacked[key] / "data" / key / "scores"
    table = experiment.tables[name]
    cells = [
        *lineage.score_keys_of(experiment, table),
        *(place.cell for place in lineage.autoregressive_cells(experiment, table)),
    ]
    manifests = [folder / model / benchmark / f"{budget}.manifest.json" for model, benchmark, budget in cells]
    with threadpool_limits(threads):
        tables.write(experiment, name, manifests, tmp_path / f"{name}.csv")
    for suffix in (".csv", ".md", ".tex"):
        published = ROOT / "results" / key / f"{name}{suffix}"
        assert (tmp_path / name).with_suffix(suffix).read_bytes() == published.read_bytes()
