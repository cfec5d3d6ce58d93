"""Analyses of `benchmarks/`: rules that select rows, pairs of rows, GPU-minutes, efficiency of several processes."""

import re
from functools import partial

import pandas as pd
import pytest

from benchmarks import compare_experiments, gpu_time, model_selection, scaling
from t3d.errors import DataError, MissingInputError, ParameterError
from t3d.params import find
from t3d.provenance import archive
from tests.conftest import ROOT
from tests.reporting.helpers import unpack


@pytest.fixture(scope="module")
def pocket(once):
    """The experiment, in a project with what it published."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(once("pocket", unpack))
        yield find("pocket")


def receipt(artefact, begin, end, device="NVIDIA H100", **more):
    """Of a job that ran between two seconds of one minute."""
    finished = f"2026-01-01T00:00:{end:02}Z"
    return {"artefact": artefact, "finished": finished, "seconds": end - begin, "device": device, **more}


def test_jobs_that_share_gpus_share_their_time():
    # Alone for 10 s, two of them for 20 s, three of them on two GPUs for 10 s, one again for 10 s.
    made = [receipt("a", 0, 40), receipt("b", 10, 40), receipt("c", 30, 50)]
    of_each = 60 * gpu_time.minutes(made, gpus=2)
    assert of_each.to_dict() == pytest.approx({"a": 10 + 20 + 20 / 3, "b": 20 + 20 / 3, "c": 20 / 3 + 10})
    # On one GPU they hold it as long as any of them runs.
    assert 60 * gpu_time.minutes(made, gpus=1).sum() == pytest.approx(50)
    # With one for each, as long as they take.
    assert 60 * gpu_time.minutes(made, gpus=3).sum() == pytest.approx(40 + 30 + 20)


def test_jobs_of_several_gpus_and_of_other_machines():
    made = [
        receipt("students/a", 0, 30, processes=4),
        receipt("trajectories/a", 30, 40, speed={"processes": 2}),
        receipt("answers/a", 40, 45, decoding={"device": "4 x NVIDIA H100"}),
        receipt("answers/b", 45, 50, decoding={"device": "NVIDIA H100"}),
        receipt("teachers/a", 0, 30, device="NVIDIA A100"),
        receipt("prompts/a", 0, 30, device="cpu"),
    ]
    of_each = 60 * gpu_time.minutes(made, gpus=4)
    seconds = {"students/a": 120, "trajectories/a": 20, "answers/a": 20, "answers/b": 5, "teachers/a": 30}
    assert of_each.to_dict() == pytest.approx(seconds)
    # One job after another in the same second.
    after = [receipt("a", 0, 10), receipt("b", 10, 20)]
    assert 60 * gpu_time.minutes(after, gpus=4).sum() == pytest.approx(20)


@pytest.fixture(scope="module")
def rows(pocket):
    """What the rule of `params/pocket.yaml` looks at, by the names of tables."""
    return {names: model_selection.summary(pocket, list(names)) for names in (("tuning",), ("beyond", "together"))}


@pytest.mark.parametrize("student", ["sft", "redi", "dparallel", "naive-td", "t3d"])
def test_learning_rates_are_those_that_the_rule_selects(pocket, rows, student):
    tuned = [key for key in pocket.tables["tuning"].students if re.fullmatch(rf"{student}-\de-4", key)]
    labels = {pocket.students[key].label: key for key in tuned}
    selected = labels[model_selection.select(rows["tuning",].loc[list(labels)])]
    assert len(tuned) == 4
    assert pocket.students[student].optimizer == pocket.students[selected].optimizer


def test_ours_is_what_the_rule_selects(rows):
    of_all = rows["beyond", "together"]
    selected = model_selection.select(of_all[of_all["gain_low"] > 0])
    assert [label for label in of_all.index if label.startswith("Ours")] == [selected]


@pytest.fixture(scope="module")
def qwen_right(once):
    """The folder of a project with what `qwen-right` published."""
    return once("qwen-right", partial(unpack, experiment="qwen-right"))


def test_rates_of_qwen_right_follow_from_its_own_rule(qwen_right, monkeypatch):
    """It counts questions of both sets together, and prefers few steps; see `students` of its parameters."""
    monkeypatch.chdir(qwen_right)
    experiment = find("qwen-right")
    rows = model_selection.summary(experiment, ["tuning"], budgets=["b4s2", "b4s1"], pooled=True)
    shown = [experiment.students[key].label for key in experiment.tables["table1"].students if key != "ours"]
    assert model_selection.chosen_rates(experiment, rows) == shown
    # The same from the counts of the published table.
    table = pd.read_csv(ROOT / "results/qwen-right/tuning.csv").query("benchmark != 'average'")
    counts = table.assign(right=table["accuracy"] * table["n"]).groupby(["method", "tokens_per_step"])
    pooled = counts["right"].sum().div(counts["n"].sum()).unstack().loc[rows.index]
    assert rows["mean"].to_numpy() == pytest.approx(pooled[[2, 4]].mean(axis=1).to_numpy(), abs=1e-3)
    original = table.query("method == 'Original' and tokens_per_step == 1")
    full_step = (original["accuracy"] * original["n"]).sum() / original["n"].sum()
    assert rows["lost"].to_numpy() == pytest.approx((full_step - pooled[1]).to_numpy(), abs=1e-3)


def test_budgets_of_the_rule_are_the_tables(pocket):
    with pytest.raises(ParameterError, match="tuning: no static budget 'b8s3'; there are b8s8, b8s2, b4s1"):
        model_selection.summary(pocket, ["tuning"], budgets=["b8s2", "b8s3"])


def test_the_rule_prefers_a_row_that_keeps_full_step():
    rows = pd.DataFrame({"mean": [80.0, 70.0, 60.0], "lost": [1.6, 1.5, 0.0]}, index=["a", "b", "c"])
    assert model_selection.select(rows) == "b"
    assert model_selection.select(rows.loc[["a"]]) == "a"
    assert model_selection.select(rows.assign(lost=[4.0, 3.0, 2.0])) == "c"


def test_efficiency_is_beside_the_fewest_processes():
    one = {"processes": 1, "trained_tokens_per_second": 100.0, "decoded_tokens_per_second": 50.0, "losses": [2.0, 1.0]}
    one |= {"seconds_per_step": 4.0, "peak_gpu_memory_mb": 9537, "save_seconds": None}
    four = one | {"processes": 4, "trained_tokens_per_second": 360.0, "decoded_tokens_per_second": 100.0}
    *_, first, last = scaling.table([one, four | {"losses": [2.0, 0.999]}], []).splitlines()
    assert first == "| 1 | 100 | 100% | 4.00 | 10 |  | 0.0e+00 | 50 | 100% |"
    assert last == "| 4 | 360 | 90% | 4.00 | 10 |  | 1.0e-03 | 100 | 50% |"
    assert scaling.difference([2.0], [2.0, 1.0]) == float("inf")


def test_what_failed_is_named_with_the_first_lines_of_its_error():
    began = "distill: 0/6\nTraceback (most recent call last):\n"
    lines = ["[rank1]: torch.InductorError: no tiles", *(f"[rank1]: line {number}" for number in range(100))]
    ran = scaling.Ran(1, 2.0, began + "\n".join(lines) + "\nChildFailedError: rank 1")
    with pytest.raises(scaling.FailedError, match="distill ended with status 1") as found:
        scaling.wanted(ran, "distill")
    said = str(found.value).splitlines()
    assert said[0].endswith("[rank1]: torch.InductorError: no tiles")
    assert said[1:] == lines[1:30]
    assert found.value.text == ran.text
    table = scaling.table([], [{"processes": 2, "error": str(found.value)}])
    assert table.splitlines()[-1] == f"2 processes failed (failed-2.log): {said[0]}"
    # Without an error's name, what was printed last.
    assert scaling.error_of("\n".join(lines[1:]) + "\nKilled\n").splitlines()[-1] == "Killed"


@pytest.fixture(scope="module")
def two(once):
    """A project with what `qwen-right` and `demo` published."""

    def both(folder):
        unpack(folder, "qwen-right")
        (folder / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            archive.restore(find("demo"))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(once("qwen-right and demo", both))
        yield


def test_rows_are_compared_as_in_a_table(two):
    found = compare_experiments.compare("qwen-right/t3d-1e-5/b4s2", "qwen-right/naive-td-1e-5/b4s2", ["gsm", "mbpp"])
    table = pd.read_csv(ROOT / "results/qwen-right/head-to-head.csv").query("tokens_per_step == 2")
    cells = table.set_index(["method", "benchmark"])
    for benchmark, row in found.iterrows():
        shown = cells.loc["T3D", benchmark]
        columns = ["n", "accuracy", "difference", "difference_low", "difference_high"]
        assert row[["n", "first", "difference", "low", "high"]].tolist() == pytest.approx(
            shown[columns].tolist(), abs=1e-3
        )
        assert row["second"] == pytest.approx(cells.loc["Naive TD", benchmark]["accuracy"], abs=1e-3)
        assert row["share"] == pytest.approx(100 * row["first"] / row["second"])
        assert row["share_low"] < row["share"] < row["share_high"]


def test_one_seed_and_a_row_beside_itself(two):
    run, row = "qwen-right/t3d-1e-5-seed0/b4s2", "qwen-right/t3d-1e-5/b4s2"
    one, same = (compare_experiments.compare(run, other, ["gsm"]).loc["gsm"] for other in (row, run))
    assert one["first"] == same["second"] != one["second"]
    assert same[["difference", "low", "high", "share", "share_low", "share_high"]].tolist() == [0, 0, 0, 100, 100, 100]


@pytest.mark.parametrize(
    ("first", "error", "words"),
    [
        ("qwen-right/coder", ParameterError, "write experiment/model/budget"),
        ("qwen-right/coder-b8/b4s4", ParameterError, "no model 'coder-b8': coder-ar, coder-all, coder"),
        ("qwen-right/coder/b4s3", MissingInputError, "scores/coder/gsm/b4s3.manifest.json is missing: make it first"),
        ("qwen-right/coder/b4", ParameterError, "'qwen-right/coder/b4': budget 'b4' is not of the form"),
        (
            "demo/pocket-sdar/b8s1",
            DataError,
            "gsm: demo/pocket-sdar/b8s1 answered 160 questions, qwen-right/coder/b4s4 1319",
        ),
    ],
)
def test_rows_that_cannot_be_compared(two, first, error, words):
    with pytest.raises(error, match=words):
        compare_experiments.compare(first, "qwen-right/coder/b4s4", ["gsm"])


def test_benchmarks_are_the_experiments(two):
    row = "qwen-right/coder/b4s4"
    with pytest.raises(ParameterError, match=r"experiment qwen-right has no benchmark 'gsm8k': .*gsm, "):
        compare_experiments.compare(row, row, ["gsm8k"])
    served = "qwen-right/coder-ar/b1s1"
    assert compare_experiments.compare(served, served, ["gsm"]).loc["gsm", "difference"] == 0


@pytest.mark.parametrize(
    ("analysis", "named"),
    [
        (lambda: compare_experiments.compare("pocket/t3d/b8s2", "pocket/t3d/b8s1", ["gsm"]), "scores/t3d-seed0/gsm"),
        (lambda: model_selection.summary(find("pocket"), ["tuning"]), "scores/pocket-sdar/"),
        (lambda: gpu_time.by_stage(find("pocket"), 4), ""),
    ],
    ids=["compare_experiments", "model_selection", "gpu_time"],
)
def test_what_was_published_and_is_not_here_is_fetched(tmp_path, monkeypatch, analysis, named):
    monkeypatch.chdir(tmp_path)
    for name in ("params", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    words = rf"^data/pocket/{named}.* missing.*: fetch what was published \(t3d pull scores --experiment pocket\)\.$"
    with pytest.raises(MissingInputError, match=words):
        analysis()
    # Where nothing was published, it is made.
    (tmp_path / "results").unlink()
    with pytest.raises(MissingInputError, match=r": make it first \(snakemake .*experiment=pocket\)\.$"):
        analysis()


def test_tables_without_rows_to_select_from(qwen_right, monkeypatch, capsys):
    monkeypatch.chdir(qwen_right)
    with pytest.raises(ParameterError, match=r"conversion: no row but the teacher .*; there is nothing to select"):
        model_selection.summary(find("qwen-right"), ["conversion"])
    monkeypatch.setattr("sys.argv", ["model_selection", "qwen-right", "rounds", "--rates"])
    model_selection.main()
    said = capsys.readouterr().out
    assert said.endswith("\nNo two rows of rounds differ in the learning rate only: --rates chooses none.\n")
    assert "chosen" not in said.splitlines()[0]
