"""A target that nobody makes is told before Snakemake looks for it."""

import pytest

from t3d import params
from t3d.errors import ParameterError
from t3d.provenance import lineage, unseen
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("results/tabel1.csv", "has no table 'tabel1'; it has table1, table2"),
        ("results/demo/figures/acuracy.pdf", "has no figure 'acuracy'; it has accuracy"),
        (
            "results/reprot.html",
            r"made by no rule. There are results/table1\.csv.*, results/report\.html, results/demo/m",
        ),
        ("results/table1.cvs", r"made by no rule. There are results/table1\.csv"),
        ("table1", r"table1 is no rule; type results/table1\.csv"),
        ("speed", r"speed is no rule; type results/figures/speed\.pdf"),
        ("results/paper/table1.csv", "is of experiment paper, not demo: add --config experiment=paper"),
        ("results/pocket/figures/speed.pdf", "is of experiment pocket, not demo"),
        ("data/pocket/students/t3d-seed0.manifest.json", "is of experiment pocket, not demo"),
        ("data/demo/students/t3d-seed9.manifest.json", "makes no 'students/t3d-seed9': unknown 't3d-seed9'"),
        ("data/demo/scores/t3d-seed0/gms/b8s2.manifest.json", "unknown 'gms'"),
    ],
)
def test_a_mistyped_target_is_named(target, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    demo = params.load(ROOT / "params" / "demo.yaml")
    unseen.check_targets(demo, ["-n", "results/table1.csv", "results/report.html", "--config", "experiment=demo"])
    unseen.check_targets(demo, ["all", "results/demo/metrics.json", "results/demo/table1.md", "--profile", "slurm"])
    unseen.check_targets(demo, ["data/demo/scores/t3d-seed0/gsm/b8s2.manifest.json", "data/demo", "results"])
    with pytest.raises(ParameterError, match=message):
        unseen.check_targets(demo, [target])


def test_a_table_shows_the_seeds_that_it_names():
    pocket = params.load(ROOT / "params" / "pocket.yaml")
    table = pocket.tables["table1"]
    chosen = table.model_copy(update={"seeds": (1,)})
    all_runs, one = ({cell[0] for cell in lineage.score_keys_of(pocket, t)} for t in (table, chosen))
    assert one == {run for run in all_runs if run.endswith("-seed1")} | {table.teacher}
