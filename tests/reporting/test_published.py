"""The tables that git keeps are those of the scores that git keeps."""

import shutil

from t3d.params.experiment import find
from t3d.reporting import tables
from tests.conftest import ROOT

POCKET = ROOT / "results" / "pocket"


def test_a_pocket_table_follows_from_its_scores(tmp_path):
    shutil.unpack_archive(POCKET / "scores.tar.xz", tmp_path)
    pocket, folder = find("pocket"), tmp_path / "data" / "pocket" / "scores"
    cells = pocket.cells_of(pocket.tables["table9"])
    manifests = [folder / model / benchmark / f"{budget}.manifest.json" for model, benchmark, budget in cells]
    tables.write(pocket, "table9", manifests, tmp_path / "table9.csv")
    for suffix in (".csv", ".md", ".tex"):
        assert (tmp_path / "table9").with_suffix(suffix).read_bytes() == (POCKET / f"table9{suffix}").read_bytes()
