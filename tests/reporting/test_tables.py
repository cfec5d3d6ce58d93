import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from t3d.errors import MissingInputError, ParameterError
from t3d.provenance import store
from t3d.reporting import scores, tables
from t3d.reporting.statistics import holm, seed_interval, wilson
from tests.reporting.helpers import ANSWERS, experiment, write_score, write_scores


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    return write_scores(experiment(), tmp_path_factory.mktemp("data"))


def tidy_of(tiny, manifests, reported=None):
    table = tiny.tables["accuracy"]
    return tables.accuracy_table(tiny, table, scores.load(tiny, table, manifests)[0], reported)


def row_of(tidy, method, tokens_per_step, benchmark, block_size=None):
    block = tidy["block_size"].isna() if block_size is None else tidy["block_size"] == block_size
    here = (tidy["method"] == method) & (tidy["tokens_per_step"] == tokens_per_step) & (tidy["benchmark"] == benchmark)
    (row,) = tidy[here & block].to_dict("records")
    return row


def with_paper(tiny, **changes):
    """`tiny` whose table stands beside the paper's table 1, and the paper's values of four cells and an average."""
    shown = {"tables": {"accuracy": tiny.tables["accuracy"].model_copy(update={"paper_table": 1})}}
    cells = [("gsm", 4, 60.0), ("gsm", 8, 40.0), ("average", None, 50.0)]
    rows = [
        {"table": 1, "model": "Teacher", "method": "T3D", "benchmark": benchmark, "block_size": block}
        | {"tokens_per_step": 2, "remasking": "low_confidence_static", "metric": "accuracy", "value": value}
        for benchmark, block, value in cells
    ]
    return tiny.model_copy(update=shown), pd.DataFrame(rows).assign(**changes)


def test_rows_are_in_the_order_of_the_paper(manifests):
    tidy = tidy_of(experiment(), manifests)
    found = list(
        zip(tidy["tokens_per_step"], tidy["method"], tidy["block_size"].fillna(0), tidy["benchmark"], strict=True)
    )
    at_two = [(4, "gsm"), (8, "gsm"), (0, "average")]
    at_eight = [(8, "gsm"), (0, "average")]
    assert found == [
        (tokens, method, *cell)
        for tokens, cells in ((2, at_two), (8, at_eight))
        for method in ("Original", "T3D")
        for cell in cells
    ]


def test_a_teachers_cell(manifests):
    row = row_of(tidy_of(experiment(), manifests), "Original", 2, "gsm", 4)
    assert (row["n"], row["seeds"], row["accuracy"]) == (8, 1, 37.5)
    assert (row["low"], row["high"]) == pytest.approx([100 * end for end in wilson(3, 8)], abs=1e-6)
    assert pd.isna(row["difference"])
    assert pd.isna(row["p_value"])


def test_a_students_cell_is_the_mean_over_seeds_compared_by_question(manifests):
    row = row_of(tidy_of(experiment(), manifests), "T3D", 2, "gsm", 4)
    assert (row["n"], row["seeds"], row["accuracy"], row["difference"]) == (8, 2, 56.25, 18.75)
    assert (row["low"], row["high"]) == pytest.approx([100 * end for end in wilson(4.5, 8)], abs=1e-6)
    # Question 3 gains 1, questions 4 and 5 gain 1/2, question 0 loses 1/2: 8 of 16 signs give 3/2 or more either way.
    assert row["p_value"] == 0.5
    assert row["difference_low"] < 0 < 18.75 < row["difference_high"]
    # Seeds 0 and 1 are right on 4 and 5 of 8 questions.
    assert (row["seed_low"], row["seed_high"]) == pytest.approx(
        [100 * end for end in seed_interval([0.5, 0.625])], abs=1e-6
    )


def test_p_values_are_corrected_over_the_cells_of_the_table(manifests):
    tidy = tidy_of(experiment(), manifests)
    found = tidy.dropna(subset="p_value")
    assert len(found) == 3
    assert found["p_adjusted"].tolist() == pytest.approx(holm(found["p_value"]), rel=1e-3)
    assert tidy["p_adjusted"].isna().equals(tidy["p_value"].isna())


def test_averages_and_their_relative_change(manifests):
    tidy = tidy_of(experiment(), manifests)
    teacher, student = (row_of(tidy, method, 2, "average") for method in ("Original", "T3D"))
    assert (teacher["accuracy"], student["accuracy"]) == (25.0, 71.875)  # (37.5 + 12.5) / 2, (56.25 + 87.5) / 2
    assert (student["difference"], student["relative_change"]) == (46.875, 187.5)
    assert row_of(tidy, "T3D", 8, "average")["relative_change"] == -50.0
    assert pd.isna(teacher["relative_change"])
    assert all(pd.isna(student[column]) for column in ("n", "low", "high", "p_value"))


def test_a_teacher_that_is_always_wrong_has_no_relative_change(tmp_path):
    tiny = experiment()
    made = [
        write_score(tiny, tmp_path, model, "gsm", budget, "0" * 8 if model == "teacher" else right)
        for (model, budget), right in ANSWERS.items()
    ]
    row = row_of(tidy_of(tiny, made), "T3D", 2, "average")
    assert row["difference"] == 71.875
    assert pd.isna(row["relative_change"])


def test_the_papers_value_stands_beside_the_same_cell(manifests):
    tidy = tidy_of(*with_paper(experiment())[:1], manifests, with_paper(experiment())[1])
    row = row_of(tidy, "T3D", 2, "gsm", 4)
    assert (row["reported"], row["difference_from_reported"]) == (60.0, -3.75)
    assert row_of(tidy, "T3D", 2, "average")["reported"] == 50.0
    assert pd.isna(row_of(tidy, "T3D", 8, "gsm", 8)["reported"])
    assert pd.isna(row_of(tidy, "Original", 2, "gsm", 4)["reported"])


@pytest.mark.parametrize(
    "other", [{"model": "Another"}, {"table": 2}, {"remasking": "low_confidence_dynamic@0.9"}, {"metric": "steps"}]
)
def test_values_of_another_model_table_or_decoder_do_not(manifests, other):
    tiny, reported = with_paper(experiment(), **other)
    assert tidy_of(tiny, manifests, reported)["reported"].isna().all()


def test_an_average_over_other_cells_does_not_stand_beside_ours(manifests):
    tiny, reported = with_paper(experiment())
    more = reported.iloc[[0]].assign(benchmark="math500")
    tidy = tidy_of(tiny, manifests, pd.concat([reported, more]))
    assert row_of(tidy, "T3D", 2, "gsm", 4)["reported"] == 60.0
    assert pd.isna(row_of(tidy, "T3D", 2, "average")["reported"])


def test_equal_scores_give_equal_bytes(manifests, tmp_path):
    tiny = experiment()
    for folder, order in (("a", manifests), ("b", manifests[::-1])):
        tables.write(tiny, "accuracy", order, tmp_path / folder / "accuracy.csv")
    names = ["accuracy.csv", "accuracy.md", "accuracy.tex"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_csv(manifests, tmp_path):
    tables.write(experiment(), "accuracy", manifests, tmp_path / "accuracy.csv")
    lines = (tmp_path / "accuracy.csv").read_bytes().decode().split("\n")
    assert lines[0].startswith(
        "method,tokens_per_step,threshold,block_size,benchmark,n,seeds,accuracy,low,high,seed_low,seed_high,difference,"
    )
    assert lines[1] == "Original,2,,4,gsm,8,1,37.5,13.684429,69.425761,,,,,,,,,,"
    assert lines[4] == "T3D,2,,4,gsm,8,2,56.25,25.894769,82.550137,-23.16378,135.66378,18.75,-12.5,50,0.5,1,,,"
    assert lines[6] == "T3D,2,,,average,,2,71.875,,,,,46.875,,,,,187.5,,"


def test_a_number_is_rounded_once(tmp_path):
    """With two decimals in the CSV 23.654 became 23.65, and then 23.6."""
    tiny = experiment()
    answers = "1" * 312 + "0" * 1007
    made = [write_score(tiny, tmp_path, model, "gsm", budget, answers) for model, budget in ANSWERS]
    tables.write(tiny, "accuracy", made, tmp_path / "accuracy.csv")
    assert "gsm,1319,1,23.654284," in (tmp_path / "accuracy.csv").read_text()
    assert "| 2 | Original | **23.7** [21.4, 26.0] |" in (tmp_path / "accuracy.md").read_text()


def test_the_papers_values_are_read_where_a_table_asks_for_them(manifests, tmp_path, monkeypatch):
    tiny, reported = with_paper(experiment())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingInputError, match=r"params/reported.csv is missing"):
        tables.write(tiny, "accuracy", manifests, tmp_path / "accuracy.csv")
    (tmp_path / "params").mkdir()
    reported.to_csv("params/reported.csv", index=False)
    tables.write(tiny, "accuracy", manifests, tmp_path / "accuracy.csv")
    assert ",60,-3.75\n" in (tmp_path / "accuracy.csv").read_text()


def test_every_file_of_a_score_is_compared_with_its_manifest_once(manifests, tmp_path, monkeypatch):
    read = []
    sha256 = store.sha256
    monkeypatch.setattr(store, "sha256", lambda path: read.append(path) or sha256(path))
    area = {"kind": "parallelism", "best_accuracy": {"gsm": 100.0}}
    shown = experiment().tables["accuracy"].model_dump(mode="json", exclude_unset=True)
    tables.write(experiment(tables={"area": shown | area}), "area", manifests, tmp_path / "area.csv")
    files = [path for path in read if path.suffix in (".json", ".parquet")]
    assert len(files) == len(set(files)) == 2 * len(ANSWERS)


def test_an_error_leaves_the_old_table(manifests, tmp_path):
    out = tmp_path / "accuracy.csv"
    out.write_text("old")
    with pytest.raises(MissingInputError):
        tables.write(experiment(), "accuracy", manifests[1:], out)
    assert out.read_text() == "old"


def test_an_unknown_table_is_named_with_those_there(tmp_path):
    with pytest.raises(ParameterError, match=r"no table 'tabel'\. Tables there: accuracy"):
        tables.write(experiment(), "tabel", [], tmp_path / "tabel.csv")


def test_a_row_decoded_in_another_way_stands_in_the_same_column(tmp_path):
    warm = {"label": "T3D, warm", "model": "t3d", "benchmarks": {"gsm": "gsm-warm"}}
    same = {"prompts": "ask", "task": "gsm_boxed"}
    benchmarks = {
        "gsm": {"label": "GSM", **same},
        "gsm-warm": {"label": "warm", **same, "sampling": {"temperature": 1}},
    }
    shown = {"caption": "Decoding", "teacher": "teacher", "students": ["t3d"], "base": "t3d", "rows": [warm]}
    shown |= {"benchmarks": ["gsm"], "budgets": ["b8s1"]}
    tiny = experiment(benchmarks=benchmarks, tables={"accuracy": shown})
    answers = {("teacher", "gsm"): "10000000"}
    answers |= {("t3d-seed0", "gsm"): "11110000", ("t3d-seed1", "gsm"): "11110000"}
    answers |= {("t3d-seed0", "gsm-warm"): "11000000", ("t3d-seed1", "gsm-warm"): "11111100"}
    # The same question has the same id, whichever way it is decoded.
    ids = [f"question-{i}" for i in range(8)]
    made = [write_score(tiny, tmp_path, *where, "b8s1", right, ids) for where, right in answers.items()]
    tidy = tidy_of(tiny, made)
    assert set(tidy["benchmark"]) == {"gsm", "average"}
    row = row_of(tidy, "T3D, warm", 8, "gsm", 8)
    assert (row["n"], row["seeds"], row["accuracy"], row["difference"]) == (8, 2, 50, 0)
    assert row_of(tidy, "Original", 8, "gsm", 8)["difference"] == -37.5
    assert pd.isna(row_of(tidy, "T3D", 8, "gsm", 8)["difference"])


def test_thresholds_follow_the_static_budgets_in_groups_of_their_own(tmp_path):
    tiny = experiment()
    budgets = ("b8t0.5", "b8t0.9", "b8s2", "b4t0.9")
    table = tiny.tables["accuracy"].model_copy(update={"budgets": budgets})
    tiny = tiny.model_copy(update={"tables": {"accuracy": table}})
    answers = {"teacher": "11000000", "t3d-seed0": "11110000", "t3d-seed1": "11111100"}
    made = [write_score(tiny, tmp_path, model, "gsm", b, right) for model, right in answers.items() for b in budgets]
    tidy = tidy_of(tiny, made)
    cells = tidy[(tidy["method"] == "T3D") & (tidy["benchmark"] == "gsm")].fillna(0)
    found = list(zip(cells["tokens_per_step"], cells["threshold"], cells["block_size"], strict=True))
    assert found == [(4, 0, 8), (0, 0.9, 4), (0, 0.9, 8), (0, 0.5, 8)]
    assert set(cells["accuracy"]) == {62.5}
    averages = tidy[(tidy["method"] == "T3D") & (tidy["benchmark"] == "average")]
    assert averages["relative_change"].tolist() == [150, 150, 150]


@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
@pytest.mark.parametrize("method", ["write_text", "replace"])
def test_a_table_is_replaced_whole_or_not_at_all(manifests, tmp_path, monkeypatch, suffix, method):
    tiny, out = experiment(), tmp_path / "accuracy.csv"
    tables.write(tiny, "accuracy", manifests, out)
    for file in tmp_path.iterdir():
        file.write_text(f"old {file.name}")
    owner, name = (Path, "write_text") if method == "write_text" else (os, "replace")
    original, order = getattr(owner, name), []

    def fails(path, *arguments, **options):
        order.append(Path(path).suffix)
        if Path(path).suffix == f".{suffix}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *arguments, **options)

    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(OSError, match="No space left"):
        tables.write(tiny, "accuracy", manifests, out)
    monkeypatch.undo()
    old = {file.name for file in tmp_path.iterdir() if file.read_text() == f"old {file.name}"}
    assert {file.name for file in tmp_path.iterdir()} == {"accuracy.csv", "accuracy.md", "accuracy.tex"}
    # The CSV, by which the table is known to be made, is replaced last.
    replaced = set() if method == "write_text" else {f"accuracy{end}" for end in order[:-1]}
    assert old == {"accuracy.csv", "accuracy.md", "accuracy.tex"} - replaced
    assert "accuracy.csv" in old
