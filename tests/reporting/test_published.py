"""The tables that git keeps are those of the scores that git keeps, and so are the models."""

import re
import shutil
from statistics import mean

import numpy as np
import pandas as pd
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


@pytest.mark.parametrize(
    "artefact", ["teachers/pocket-sdar", "students/t3d-seed0", "students/t3d-certain-round-2-fast-seed0"]
)
def test_the_published_weights_are_those_that_were_scored(unpacked, tmp_path, artefact):
    shutil.unpack_archive(POCKET / "weights" / f"{artefact.partition('/')[2]}.tar.xz", tmp_path)
    scored, published = (
        receipts.read(folder / "data" / "pocket" / f"{artefact}.manifest.json") for folder in (unpacked, tmp_path)
    )
    assert published.digest() == scored.digest()
    published.check(contents=True)


class Validation:
    """What the rule of `params/pocket.yaml` looks at: answers to validation problems, right (100) or wrong (0)."""

    def __init__(self, folder, budgets):
        self.folder = folder / "data" / "pocket" / "scores"
        self.cells = [(domain, budget) for domain in ("gsm-validation", "code-validation") for budget in budgets]

    def of(self, runs):
        """Cell -> accuracy of each question, averaged over runs."""
        return {cell: np.mean([self._right(run, *cell) for run in runs], axis=0) for cell in self.cells}

    def _right(self, run, domain, budget):
        return 100.0 * pd.read_parquet(self.folder / run / domain / f"{budget}.parquet")["correct"].to_numpy()

    def chosen(self, rows):
        """Key of the row with the highest mean of those that lose 1.5 points at most, or of that which loses least."""
        teacher = self.of(["pocket-sdar"])
        full_step = [cell for cell in self.cells if cell[1] == "b8s8"]
        lost = {k: max(teacher[cell].mean() - row[cell].mean() for cell in full_step) for k, row in rows.items()}
        height = {k: mean(right.mean() for right in row.values()) for k, row in rows.items()}
        stay = [k for k in rows if lost[k] <= 1.5]
        return max(stay, key=height.get) if stay else min(rows, key=lost.get)


@pytest.mark.parametrize("student", ["sft", "redi", "dparallel", "naive-td", "t3d"])
def test_learning_rates_are_those_that_the_rule_chooses(unpacked, student):
    pocket = find("pocket")
    validation = Validation(unpacked, pocket.tables["tuning"].budgets)
    tuned = [key for key in pocket.tables["tuning"].students if re.fullmatch(rf"{student}-\de-4", key)]
    chosen = validation.chosen({key: validation.of([f"{key}-seed0"]) for key in tuned})
    assert len(tuned) == 4
    assert pocket.students[student].optimizer == pocket.students[chosen].optimizer


def test_ours_is_what_the_rule_chooses(unpacked):
    pocket = find("pocket")
    validation = Validation(unpacked, ("b8s8", "b8s4", "b8s2", "b8s1", "b4s1"))
    keys = {*pocket.tables["beyond"].students, *pocket.tables["together"].students}
    rows = {key: validation.of([f"{key}-seed{seed}" for seed in (0, 1, 2)]) for key in keys}
    base = rows.pop("t3d")
    chosen = validation.chosen({key: row for key, row in rows.items() if _wins(row, base)})
    assert [key for key in keys if pocket.students[key].label.startswith("Ours")] == [chosen]


def _wins(row, base):
    """Whether a row's mean over all cells is higher by more than its 95 % interval, paired by question."""
    by_domain = {}
    for (domain, budget), right in row.items():
        by_domain.setdefault(domain, []).append(right - base[domain, budget])
    differences = [np.mean(cells, axis=0) for cells in by_domain.values()]
    error = np.sqrt(sum(d.var(ddof=1) / len(d) for d in differences)) / len(differences)
    return mean(d.mean() for d in differences) > 1.96 * error
