"""What each kind of table shows, and that Markdown, LaTeX and page show it from the CSV alone."""

import re

import pandas as pd
import pytest

from t3d.params import Experiment, find
from t3d.provenance import lineage
from t3d.provenance.store import manifest_path
from t3d.reporting import csv_format, renderings, tables, view
from tests.conftest import ROOT
from tests.reporting.helpers import with_autoregressive, write_score, write_scores, write_served

PAPER = """table,model,method,benchmark,block_size,steps_per_block,tokens_per_step,remasking,metric,value,note
1,Teacher,Original,gsm,4,2,2,low_confidence_static,accuracy,40.50,
1,Teacher,T3D,gsm,4,2,2,low_confidence_static,accuracy,39.25,
1,Teacher,T3D,gsm,8,1,8,low_confidence_static,accuracy,37.75,
1,Teacher,T3D,gsm,4,2,2,low_confidence_static,latency_seconds,0.25,
"""
TABLES = {
    "accuracy": {"paper_table": 1},
    "based": {"base": "t3d", "budgets": ["b4s2", "b8t0.9"]},
    "cuts": {"budgets": ["b8s4", "b8s1"], "base_budget": "b8s4"},
    "cost": {"kind": "decoding", "budgets": ["b4s2", "b8t0.9"], "paper_table": 1},
    "area": {"kind": "parallelism", "budgets": ["b8s4", "b8s1"], "best_accuracy": {"gsm": 100}, "autoregressive": None},
}
SPEEDS = pd.DataFrame({"device": ["cpu"], "batch_size": [4]})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny experiment with a table of every kind, and what `tables.write` wrote of each."""
    folder = tmp_path_factory.mktemp("project")
    plain = with_autoregressive().model_dump(mode="json", exclude_unset=True)
    shown = plain["tables"]["accuracy"]
    plain["tables"] = {
        name: {key: value for key, value in (shown | more).items() if value is not None}
        for name, more in TABLES.items()
    }
    experiment, texts = Experiment.model_validate(plain), {}
    write_scores(experiment, folder / "data" / "tiny")
    for model, right in {"teacher": "11000000", "t3d-seed0": "11110000", "t3d-seed1": "11111100"}.items():
        write_score(experiment, folder / "data" / "tiny", model, "gsm", "b8t0.9", right)
    write_served(experiment, folder / "data" / "tiny")
    (folder / "params").mkdir()
    (folder / "params" / "reported.csv").write_text(PAPER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, table in experiment.tables.items():
            cells = dict.fromkeys(place.cell for place in lineage.all_cells_of(experiment, table))
            manifests = [manifest_path(experiment, "/".join(("scores", *cell))) for cell in cells]
            tables.write(experiment, name, manifests, folder / f"{name}.csv")
            texts[name] = {s: (folder / f"{name}.{s}").read_text(encoding="utf-8") for s in ("md", "tex")}
    return experiment, folder, texts


def view_of(made, name):
    """The view of a table from its CSV, as the page has it."""
    experiment, folder, _ = made
    return tables.view_of(experiment, name, csv_format.read(folder / f"{name}.csv"), SPEEDS)


def cells_of(made, name, *common):
    """Method -> cells of a group of rows."""
    return dict(next(rows for shared, rows in view_of(made, name).groups if shared == common))


LINES = {
    "accuracy": [
        "| Tokens per step | Method | GSM\\_100%, block 4 | GSM\\_100%, block 8 | Average | Relative change |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
        "| 2 | Original | 37.5 [13.7, 69.4] (40.5) | 12.5 [2.2, 47.1] | 25.0 | – |",
        "| 2 | T3D | **56.2** [25.9, 82.6] (39.2) | **87.5** [52.9, 97.8]† | **71.9** | +187.5 % |",
        "| 8 | Original | – | **12.5** [2.2, 47.1] | **12.5** | – |",
        "| 8 | T3D | – | 6.2 [0.7, 40.2] (37.8) | 6.2 | −50.0 % |",
        # Under block 4, and blank under block 8; not in bold, for it is compared with nothing.
        "| – | AR (vLLM) | 87.5 [52.9, 97.8] |  | 87.5 | – |",
    ],
    "based": [
        "| 2 | Original | 37.5 (−18.8 [−50.0, 12.5]) | – | 37.5 (−18.8) | −33.3 % |",
        "| 2 | T3D | **56.2** [25.9, 82.6] | – | **56.2** | – |",
        "| p > 0.9 | T3D | – | **62.5** [30.6, 86.3] | **62.5** | – |",
    ],
    # Each row beside itself at two tokens per step: Original has one question right at both, T3D loses 6.5 of 8.
    "cuts": [
        "| 2 | Original | 12.5 [2.2, 47.1] | 12.5 | – |",
        "| 2 | T3D | **87.5** [52.9, 97.8] | **87.5** | – |",
        "| 8 | Original | **12.5** (+0.0 [0.0, 0.0]) | **12.5** (+0.0) | +0.0 % |",
        "| 8 | T3D | 6.2 (−81.2 [−93.8, −62.5])† | 6.2 (−81.2) | −92.9 % |",
    ],
    "cost": [
        "| Benchmark | Budget | Method | Tokens/s | Latency (s) | Steps | Length | Tokens per step | Accuracy |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| GSM\\_100% | b4s2 | T3D | 100.0 | 0.16 (0.25) | 8.0 | 16.0 | 2.00 | 56.2 [25.9, 82.6] (39.2) |",
        "| GSM\\_100% | b8t0.9 | Original | 100.0 | 0.16 | 8.0 | 16.0 | 2.00 | 25.0 [7.1, 59.1] |",
        "| GSM\\_100% | – | AR (vLLM), saturated | 100.0 | 0.16 | 8.0 | 16.0 | 2.00 | 87.5 [52.9, 97.8] |",
        "| GSM\\_100% | – | AR (vLLM), batch 1 | 20.0 | 0.80 | – | – | – | – |",
    ],
    "area": [
        "| Benchmark | Block | Method | AUP | Points | Fastest | Accuracy | Tokens per forward | Tokens/s |",
        "| GSM\\_100% | 8 | Original | 16.7 [0.0, 50.0] | 2 | b8s4 | 12.5 | 1.3 | 100.0 |",
        "| GSM\\_100% | 8 | T3D | **116.7** [100.0, 133.3] | 1 | b8s4 | 87.5 | 1.3 | 100.0 |",
    ],
}


@pytest.mark.parametrize("name", LINES)
def test_the_markdown(made, name):
    caption, blank, *lines = made[2][name]["md"].splitlines()
    assert (caption, blank) == ("Accuracy & speed", "")
    assert [line for line in lines if line in LINES[name]] == LINES[name]


def test_the_latex(made):
    text = made[2]["accuracy"]["tex"]
    assert r"\caption{Accuracy \& speed}" in text
    assert r"\textbf{87.5} [52.9, 97.8]$^{\dagger}$ & \textbf{71.9} & +187.5 \%" in text
    assert r"8 & T3D & -- & 6.2 [0.7, 40.2] (37.8) & 6.2 & $-$50.0 \% \\" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("accuracy", "Questions (n): GSM\\_100% 8. Training seeds averaged: T3D 2."),
        ("accuracy", "p \\< 0.05 against Original"),
        ("accuracy", "Last, in parentheses: the paper's value."),
        ("accuracy", "AR (vLLM) writes a token at a time, at no budget"),
        ("based", "in parentheses the difference from T3D"),
        ("cuts", "in parentheses the difference from its own b8s4"),
        ("cuts", "p \\< 0.05 against its own b8s4"),
        ("cost", "on cpu, 4 sequences together; jobs may have shared the machine."),
        ("cost", "at batch 1, the first 4 questions one after the other"),
        ("area", "y\\_max declared (GSM\\_100% 100)"),
    ],
)
def test_the_note(made, name, said):
    assert said in made[2][name]["md"].splitlines()[-1]


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([1, 1, 1], "each job had its GPU to itself"),
        ([1, 14, 3], "up to 14 jobs shared a GPU"),
        ([1, None, 1], "jobs may have shared the machine"),
    ],
)
def test_the_note_says_who_shared_a_gpu(jobs, said):
    assert f"together; {said}." in view.about_speed(pd.DataFrame({"device": "X", "batch_size": 4, "gpu_jobs": jobs}))


def test_a_cell_says_what_it_is_and_what_it_was_made_from(made):
    four, eight, average, change = cells_of(made, "accuracy", "2")["T3D"]
    assert four.detail == (
        "95 % interval 25.9 to 82.6, 8 questions, 2 seeds",
        "95 % interval over seeds -23.2 to 135.7",
        "+18.8 points from Original [−12.5, +50.0]",
        "p = 0.5, corrected 1",
        "paper 39.2, ours +17.0",
    )
    assert (four.best, four.differs, eight.differs, four.accuracy) == (True, False, True, 56.25)
    assert four.scores == ("t3d/gsm/b4s2",)
    assert average.scores == ("t3d/gsm/b4s2", "t3d/gsm/b8s4")
    assert (change.scores, average.accuracy) == ((), None)
    latency = cells_of(made, "cost", "GSM_100%", "b4s2")["T3D"][1]
    assert latency.detail == ("8 questions, 2 seeds", "paper 0.25, ours −0.09")
    assert {c.scores for c in cells_of(made, "cost", "GSM_100%", "–")["AR (vLLM), batch 1"][:2]} == {("ar/gsm/b1s1",)}
    area, _, fastest, *_ = cells_of(made, "area", "GSM_100%", "8")["T3D"]
    assert area.scores == ("t3d/gsm/b8s4", "t3d/gsm/b8s1")
    assert (fastest.scores, fastest.detail) == (("t3d/gsm/b8s4",), ("matched accuracy: at least 7.5",))


def test_the_papers_values_stand_beside_ours_shaded_by_the_difference(made):
    compared = [cell for cell in view_of(made, "accuracy").cells() if cell.reported]
    # 37.5 against 40.5; 56.25 (two seeds) against 39.25; 6.25 against 37.75.
    assert {cell.scores[0]: (cell.reported, cell.shade) for cell in compared} == {
        "teacher/gsm/b4s2": ("40.5", "under-1"),
        "t3d/gsm/b4s2": ("39.2", "over-3"),
        "t3d/gsm/b8s1": ("37.8", "under-3"),
    }


def test_shades_are_of_points_for_accuracies_and_of_percent_for_the_rest():
    points = [view.shade(difference, 40.0, points=True) for difference in (1.9, 2.0, -5.0)]
    percent = [view.shade(difference, 40.0, points=False) for difference in (1.0, -6.0)]
    assert (points, percent) == (["equal", "over-1", "under-2"], ["equal", "under-2"])


@pytest.mark.parametrize("name", find("pocket").tables)
def test_a_published_csv_alone_gives_the_published_markdown_and_latex(name):
    """But for where the speed was measured, which receipts say."""
    pocket, csv = find("pocket"), ROOT / "results" / "pocket" / f"{name}.csv"
    shown = tables.view_of(pocket, name, csv_format.read(csv), SPEEDS)
    for suffix, text in ((".md", renderings.markdown(shown)), (".tex", renderings.latex(shown))):
        published = csv.with_suffix(suffix).read_text(encoding="utf-8")
        said = [re.sub("Speed is that of this run: .*?; [^.]*", "", whole) for whole in (text, published)]
        assert said[0] == said[1]


@pytest.mark.parametrize("number", [-0.04, -0.0, 0.0, 0.04])
def test_what_rounds_to_zero_has_no_minus(number):
    assert view.signed(number) == "+0.0"
    assert view.interval(number, 1.0) == "[0.0, 1.0]"
