"""The tables that git keeps are those of the scores that git keeps, and so are the models."""

import shutil

import pytest

from t3d import receipts
from t3d.params.experiment import find
from t3d.reporting import tables
from tests.conftest import ROOT

POCKET = ROOT / "results" / "pocket"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with the published scores in it."""
    folder = tmp_path_factory.mktemp("published")
    shutil.unpack_archive(POCKET / "scores.tar.xz", folder)
    return folder


@pytest.mark.parametrize("name", ["table4", "table9"])
def test_a_pocket_table_follows_from_its_scores(unpacked, tmp_path, name):
    pocket, folder = find("pocket"), unpacked / "data" / "pocket" / "scores"
    cells = pocket.cells_of(pocket.tables[name])
    manifests = [folder / model / benchmark / f"{budget}.manifest.json" for model, benchmark, budget in cells]
    tables.write(pocket, name, manifests, tmp_path / f"{name}.csv")
    for suffix in (".csv", ".md", ".tex"):
        assert (tmp_path / name).with_suffix(suffix).read_bytes() == (POCKET / f"{name}{suffix}").read_bytes()


@pytest.mark.parametrize("artefact", ["teachers/pocket-sdar", "students/t3d-seed0"])
def test_the_published_weights_are_those_that_were_scored(unpacked, tmp_path, artefact):
    shutil.unpack_archive(POCKET / "weights" / f"{artefact.partition('/')[2]}.tar.xz", tmp_path)
    scored, published = (
        receipts.read(folder / "data" / "pocket" / f"{artefact}.manifest.json") for folder in (unpacked, tmp_path)
    )
    assert published.digest() == scored.digest()
    published.check(contents=True)
