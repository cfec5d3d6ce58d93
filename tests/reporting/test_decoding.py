"""Table 3: what decoding costs, beside the paper's values; and rows that another row is the base of."""

import pandas as pd
import pytest

from t3d.params import AccuracyTable, DecodingTable
from t3d.reporting import scores
from t3d.reporting.accuracy import accuracy_table
from t3d.reporting.csv_format import to_csv
from t3d.reporting.decoding import decoding_table
from tests.reporting.helpers import experiment, write_score, write_scores

SHOWN = {"caption": "Decoding", "teacher": "teacher", "students": ("t3d",), "benchmarks": ("gsm",)}


def reported(**changes):
    rows = [("tokens_per_second", 650.0), ("accuracy", 40.0)]
    keys = {"table": 3, "model": "Teacher", "method": "Theirs", "benchmark": "gsm", "block_size": 8}
    keys |= {"tokens_per_step": None, "remasking": "low_confidence_dynamic@0.9"}
    return pd.DataFrame([keys | {"metric": metric, "value": value} for metric, value in rows]).assign(**changes)


@pytest.fixture
def dynamic(tmp_path):
    tiny = experiment()
    table = DecodingTable(kind="decoding", budgets=("b8t0.9",), paper_table=3, paper_rows={"t3d": "Theirs"}, **SHOWN)
    models = {"teacher": "11000000", "t3d-seed0": "11110000", "t3d-seed1": "11111100"}
    made = [write_score(tiny, tmp_path, model, "gsm", "b8t0.9", right) for model, right in models.items()]
    return tiny, table, scores.load(tiny, table, made)[1]


def test_values_are_means_over_seeds_beside_the_papers(dynamic):
    tiny, table, totals = dynamic
    totals.loc[totals["seed"] == 1, "tokens_per_second"] = 300.0
    tidy = decoding_table(tiny, table, totals, reported()).set_index(["method", "metric"])
    t3d = tidy.loc["T3D"]
    # 16 tokens a response, at 100 and 300 tokens/s, in 8 steps; 4 and 6 of 8 answers are right.
    expected = {"tokens_per_second": 200, "latency_seconds": 0.08, "steps": 8, "response_tokens": 16}
    assert t3d["value"].to_dict() == expected | {"tokens_per_step": 2, "accuracy": 62.5}
    assert t3d.loc["accuracy", "low"] < 62.5 < t3d.loc["accuracy", "high"]
    assert t3d["reported"].dropna().to_dict() == {"tokens_per_second": 650, "accuracy": 40}
    assert t3d.loc["accuracy", "difference_from_reported"] == 22.5
    assert tidy.loc["Original", "reported"].isna().all()


def test_a_latency_of_a_millisecond_is_not_nought(dynamic):
    tiny, table, totals = dynamic
    totals["tokens_per_second"] = 10_000.0
    tidy = decoding_table(tiny, table, totals, None)
    assert ",latency_seconds,0.0016," in to_csv(tidy)


@pytest.mark.parametrize("other", [{"table": 1}, {"model": "Another"}, {"block_size": 4}, {"method": "T3D"}])
def test_values_of_another_cell_do_not_stand_there(dynamic, other):
    tiny, table, totals = dynamic
    assert decoding_table(tiny, table, totals, reported(**other))["reported"].isna().all()


def test_another_row_than_the_teacher_is_the_base(tmp_path):
    tiny = experiment()
    table = AccuracyTable(base="t3d", budgets=("b4s2",), **SHOWN)
    manifests = [path for path in write_scores(tiny, tmp_path) if path.name.startswith("b4s2")]
    tidy = accuracy_table(tiny, table, scores.load(tiny, table, manifests)[0])
    difference = tidy[tidy["benchmark"] == "gsm"].set_index("method")["difference"]
    assert difference["Original"] == -18.75
    assert pd.isna(difference["T3D"])
