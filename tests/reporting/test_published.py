"""The tables that git keeps are those of the scores that git keeps."""

from functools import partial

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from t3d.params import find
from t3d.provenance import lineage
from t3d.reporting import scores, tables
from tests.conftest import ROOT
from tests.reporting.helpers import unpack

EXPERIMENTS = ("pocket", "qwen", "qwen-rates", "qwen-right", "qwen-block8")
TABLES = [(experiment, name, 2) for experiment in EXPERIMENTS for name in find(experiment).tables]
ONE_THREAD = [("pocket", name, 1) for name in ("table1", "table3", "table9", "humaneval")]
"""Tables of each kind; those that git keeps were made with one thread."""


@pytest.fixture(scope="module")
def published(once):
    """The folders of the published scores; each is read, and compared with its manifest, once for all tables."""
    read, known = scores._read, {}

    def reads(cell, manifest):
        if manifest.path not in known:
            known[manifest.path] = read(cell, manifest)
        return known[manifest.path]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_read", reads)
        yield {name: once(name, partial(unpack, experiment=name)) / "data" / name / "scores" for name in EXPERIMENTS}


@pytest.mark.parametrize(("key", "name", "threads"), [*TABLES, *ONE_THREAD])
def test_a_table_follows_from_its_scores(published, tmp_path, key, name, threads):
    """On any number of BLAS threads: several add up in another order than one."""
    experiment = find(key)
    table = experiment.tables[name]
    cells = [
        *lineage.score_keys_of(experiment, table),
        *(place.cell for place in lineage.autoregressive_cells(experiment, table)),
    ]
    manifests = [published[key] / model / benchmark / f"{budget}.manifest.json" for model, benchmark, budget in cells]
    with threadpool_limits(threads):
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {threads}
        tables.write(experiment, name, manifests, tmp_path / f"{name}.csv")
    for suffix in (".csv", ".md", ".tex"):
        kept = ROOT / "results" / key / f"{name}{suffix}"
        assert (tmp_path / name).with_suffix(suffix).read_bytes() == kept.read_bytes()
