"""The tables that git keeps are those of the scores that git keeps."""

import re

import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from t3d.params import find
from t3d.provenance import archive, lineage
from t3d.reporting import choice, tables
from tests.conftest import ROOT

POCKET = ROOT / "results" / "pocket"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder with the published scores in it."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("params", "results"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        archive.restore(find("pocket"))
    return folder


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


@pytest.fixture(scope="module")
def rows(unpacked):
    """What the rule of `params/pocket.yaml` looks at, by the names of tables."""
    pocket = find("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(unpacked)
        return {names: choice.summary(pocket, list(names)) for names in (("tuning",), ("beyond", "together"))}


@pytest.mark.parametrize("student", ["sft", "redi", "dparallel", "naive-td", "t3d"])
def test_learning_rates_are_those_that_the_rule_chooses(rows, student):
    pocket = find("pocket")
    tuned = [key for key in pocket.tables["tuning"].students if re.fullmatch(rf"{student}-\de-4", key)]
    labels = {pocket.students[key].label: key for key in tuned}
    chosen = labels[choice.chosen(rows["tuning",].loc[list(labels)])]
    assert len(tuned) == 4
    assert pocket.students[student].optimizer == pocket.students[chosen].optimizer


def test_ours_is_what_the_rule_chooses(rows):
    of_all = rows["beyond", "together"]
    chosen = choice.chosen(of_all[of_all["gain_low"] > 0])
    assert [label for label in of_all.index if label.startswith("Ours")] == [chosen]


def test_the_rule_prefers_a_row_that_keeps_full_step():
    rows = pd.DataFrame({"mean": [80.0, 70.0, 60.0], "lost": [1.6, 1.5, 0.0]}, index=["a", "b", "c"])
    assert choice.chosen(rows) == "b"
    assert choice.chosen(rows.loc[["a"]]) == "a"
    assert choice.chosen(rows.assign(lost=[4.0, 3.0, 2.0])) == "c"
