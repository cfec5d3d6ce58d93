"""Whose table a file below `results/` is, and what is said of how it was made."""

from pathlib import Path

import pytest

from t3d.errors import DataError, ParameterError
from t3d.provenance import trace
from tests.conftest import ROOT


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two experiments' tables, of which one was copied."""
    (tmp_path / "params").symlink_to(ROOT / "params")
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "pocket"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "table1.csv").write_text(f"method\n{name}\n")
    return tmp_path / "results"


@pytest.mark.parametrize("name", ["demo", "pocket"])
def test_a_copy_is_the_table_of_the_experiment_that_made_it(results, name):
    (results / "table1.csv").write_bytes((results / name / "table1.csv").read_bytes())
    experiment, table = trace.table_of(results / "table1.csv", None)
    assert (experiment.name, table) == (name, "table1")
    assert trace.table_of(results / name / "table1.csv", None)[0].name == name


def test_a_copy_of_nothing_is_refused(results):
    (results / "table1.csv").write_text("method\nother\n")
    with pytest.raises(ParameterError, match=r"copy of no experiment's table.*demo/table1.csv, .*pocket/table1.csv"):
        trace.table_of(results / "table1.csv", None)
    # Whoever names the experiment is believed.
    assert trace.table_of(results / "table1.csv", "pocket")[0].name == "pocket"


def test_an_unknown_cell_is_told_the_nearest_and_how_to_list_all(results):
    experiment, table = trace.table_of(results / "pocket" / "table1.csv", None)
    with pytest.raises(DataError) as refused:
        trace.trace(experiment, table, "t3d/gsm/b8s3")
    assert str(refused.value) == (
        "table1 has no cell 't3d/gsm/b8s3'. Nearest of its 62: t3d/gsm/b8s4, t3d/gsm/b8s2, t3d/gsm/b8s1. "
        "t3d trace results/pocket/table1.csv lists all."
    )


def test_an_unknown_table_lists_those_there_are(results):
    with pytest.raises(ParameterError, match=r"no table 'tabel1': table1, table2"):
        trace.table_of(results / "demo" / "tabel1.csv", None)
    with pytest.raises(ParameterError, match=r"table1.csv is no table; name results/table1.csv or"):
        trace.table_of(Path("table1.csv"), None)


def test_a_command_is_shown_without_options_that_have_no_value(monkeypatch):
    line = "t3d teacher --name a --out b --source  --teacher c --shards  2>&1 | tee d"
    monkeypatch.setattr(trace.records, "collect", lambda: {"b": {"shellcmd": line}})
    assert trace.commands_of() == {"b": "t3d teacher --name a --out b --teacher c 2>&1 | tee d"}
