"""What the points of an accuracy figure are, and how its lines look."""

import json

import numpy as np
import pandas as pd
import pytest

from t3d import params
from t3d.provenance import store
from t3d.provenance.lineage import students_of
from t3d.reporting import scores
from t3d.reporting.accuracy import accuracy_table
from t3d.reporting.figures import accuracy
from t3d.reporting.figures.style import look_of, spread
from tests.reporting.helpers import ANSWERS, experiment, with_figure, write_score, write_scores

SWEEP = ["b8t0.5", "b8t0.99", "b8t0.9"]
STEPS = {"b8t0.5": 4, "b8t0.9": 8, "b8t0.99": 16, "b8s2": 5}
"""Denoising steps of the teacher's 16 response tokens; t3d-seed0 needs half, t3d-seed1 as many."""


def edited(manifest, change):
    """Write a score again with `change` of its questions, and its lineage as it was."""
    found = store.read(manifest)
    path = found.file(".parquet")
    change(pd.read_parquet(path)).to_parquet(path)
    content = json.loads(manifest.read_text())
    content["files"][path.name] = {"size": path.stat().st_size, "sha256": store.sha256(path)}
    manifest.write_text(json.dumps(content))
    return manifest


def with_speed(manifest, **decoding):
    """Give a score's receipt the speed its stage copies from the answers."""
    path = manifest.with_name(manifest.name.replace(".manifest.", ".receipt."))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoding": decoding}))
    return manifest


def sweep(root, budgets):
    tiny = with_figure(budgets=budgets)
    manifests = []
    for run, divisor in (("teacher", 1), ("t3d-seed0", 2), ("t3d-seed1", 1)):
        for budget in budgets:
            steps = STEPS[budget] // divisor
            manifest = write_score(tiny, root, run, "gsm", budget, "11110000")
            manifests.append(edited(manifest, lambda frame, steps=steps: frame.assign(denoising_steps=steps)))
    return tiny, manifests


def points(tiny, manifests):
    wanted = tiny.figures["shown"]
    return accuracy.points_of(tiny, wanted, *scores.load(tiny, wanted, manifests))


def test_static_budgets_stand_at_the_tokens_per_step_they_set(tmp_path):
    tiny = with_figure()
    manifests = write_scores(tiny, tmp_path)
    found = points(tiny, manifests)
    assert found["x"].tolist() == found["tokens_per_step"].tolist()
    assert set(zip(found["budget"], found["x"], strict=True)) == {("b4s2", 2.0), ("b8s4", 2.0), ("b8s1", 8.0)}
    assert not found["mark"].any()
    table = accuracy_table(tiny, tiny.figures["shown"], scores.load(tiny, tiny.figures["shown"], manifests)[0])
    assert found["accuracy"].tolist() == table.dropna(subset="block_size")["accuracy"].tolist()


def test_thresholds_stand_at_the_tokens_per_step_measured_over_questions_and_seeds(tmp_path):
    found = points(*sweep(tmp_path, SWEEP))
    teacher, t3d = (found[found["method"] == method] for method in ("Original", "T3D"))
    # Joined from few tokens per step to many: the highest threshold first.
    assert teacher["threshold"].tolist() == [0.99, 0.9, 0.5]
    assert teacher["x"].tolist() == [16 / 16, 16 / 8, 16 / 4]
    # Both seeds' tokens over both seeds' steps, not the mean of their ratios (which would be 1.5, 3 and 6).
    assert t3d["x"].tolist() == pytest.approx([32 / 24, 32 / 12, 32 / 6])
    assert teacher["mark"].tolist() == ["0.99", "", "0.5"]
    assert not t3d["mark"].any()


def test_beside_thresholds_static_budgets_are_measured_too(tmp_path):
    tiny, manifests = sweep(tmp_path, ["b8s2", "b8t0.9"])
    teacher = points(tiny, manifests).query("method == 'Original'")
    assert dict(zip(teacher["budget"], teacher["x"], strict=True)) == {"b8s2": 16 / 5, "b8t0.9": 2.0}


def test_speed_is_the_mean_over_seeds_and_the_machine_is_named(tmp_path):
    tiny = with_figure(against="tokens_per_second", budgets=["b8s4", "b8s1"])
    speeds = {"teacher": 100.0, "t3d-seed0": 200.0, "t3d-seed1": 400.0}
    manifests = [
        with_speed(
            write_score(tiny, tmp_path, run, "gsm", budget, "11110000"),
            tokens_per_second=speed * (1 if budget == "b8s4" else 3),
            batch_size=80,
            device="NVIDIA X",
        )
        for run, speed in speeds.items()
        for budget in ("b8s4", "b8s1")
    ]
    found = points(tiny, manifests)
    assert found.loc[found["method"] == "Original", "x"].tolist() == [100.0, 300.0]
    assert found.loc[found["method"] == "T3D", "x"].tolist() == [300.0, 900.0]
    assert found.loc[found["method"] == "Original", "mark"].tolist() == ["2", "8"]
    figure = accuracy.draw(tiny, tiny.figures["shown"], manifests)
    (legend,) = figure.legends
    assert "NVIDIA X, batch size 80" in legend.get_title().get_text().replace("\n", " ")
    assert figure.axes[0].get_xscale() == "log"


def test_static_lines_are_solid_and_dynamic_ones_dotted_where_both_are_shown(tmp_path):
    tiny, manifests = sweep(tmp_path / "both", ["b8s2", *SWEEP])
    (axis,) = accuracy.draw(tiny, tiny.figures["shown"], manifests).axes
    colour = look_of(tiny, "t3d")["color"]
    student = [line for line in axis.lines if line.get_color() == colour]
    assert {line.get_linestyle(): len(line.get_xdata()) for line in student} == {"-": 1, ":": 3}
    tiny, manifests = sweep(tmp_path / "one", SWEEP)
    (axis,) = accuracy.draw(tiny, tiny.figures["shown"], manifests).axes
    assert [line.get_linestyle() for line in axis.lines] == ["--", "-"]


def test_a_model_shown_again_has_its_colour_and_a_line_of_its_own(tmp_path):
    again = {"label": "T3D again", "model": "t3d", "benchmarks": {"gsm": "gsm"}}
    tiny = with_figure(rows=[again])
    figure = accuracy.draw(tiny, tiny.figures["shown"], write_scores(tiny, tmp_path))
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    colour = look_of(tiny, "t3d")["color"]
    assert looks[1:] == [(colour, "-"), (colour, "-.")]
    assert {text.get_text() for text in figure.axes[-1].texts} == {"Original", "T3D", "T3D again"}


def test_a_method_looks_the_same_in_every_experiment_and_t3d_is_the_strongest():
    demo, pocket, paper = map(params.find, ("demo", "pocket", "paper"))
    for student in ("sft", "redi", "naive-td", "t3d", "ddo", "dparallel"):
        assert look_of(demo, student) == look_of(pocket, student)
    assert look_of(demo, "t3d") == look_of(paper, "t3d-math-1.7b")
    widths = {student: look_of(pocket, student)["linewidth"] for student in pocket.students}
    assert {student for student, width in widths.items() if width == max(widths.values())} == {"t3d"}
    assert look_of(demo, "pocket-sdar")["linestyle"] == "--"


def test_students_with_other_labels_get_what_is_left_whoever_comes_before_them():
    plain = with_figure()
    student = plain.students["t3d"]
    other = {key: student.model_copy(update={"label": key}) for key in ("one", "two")}
    figure = plain.figures["shown"].model_copy(update={"students": ("t3d", "two")})
    made = plain.model_copy(update={"students": {"t3d": student, **other}, "figures": {"shown": figure}})
    assert look_of(made, "t3d") == look_of(plain, "t3d")
    looks = [look_of(made, key)["color"] for key in ("two", "one", "t3d")]
    assert len(set(looks)) == 3
    # The one that is shown comes first.
    assert (
        looks[0] == look_of(made.model_copy(update={"students": {"t3d": student, "two": other["two"]}}), "two")["color"]
    )


def test_labels_stand_at_the_ends_of_lines_without_overlap():
    wanted, sizes = np.array([0.1, 0.5, 0.52, 0.53, 0.99]), np.array([0.07, 0.07, 0.14, 0.07, 0.07])
    found = spread(wanted, sizes)
    assert found[0] == pytest.approx(0.1)
    gaps = np.diff(found) - (sizes[1:] + sizes[:-1]) / 2
    assert (gaps > -1e-9).all()
    assert found[-1] + sizes[-1] / 2 <= 1 + 1e-9
    # The three that are near each other move as little as they can.
    assert found[1:4].mean() == pytest.approx(wanted[1:4].mean(), abs=0.03)


def test_seeds_are_named_where_there_are_some(tmp_path):
    tiny = with_figure()
    figure = accuracy.draw(tiny, tiny.figures["shown"], write_scores(tiny, tmp_path))
    assert "mean over training seeds" in figure.legends[0].get_title().get_text()
    content = tiny.model_dump(mode="json", exclude_unset=True)
    content["students"]["t3d"]["seeds"] = [0]
    one = type(tiny).model_validate(content)
    runs = [key for key in ANSWERS if key[0] != "t3d-seed1"]
    manifests = [
        write_score(one, tmp_path / "one", model, "gsm", budget, ANSWERS[model, budget]) for model, budget in runs
    ]
    figure = accuracy.draw(one, one.figures["shown"], manifests)
    assert "seeds" not in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize(
    ("low", "high", "base", "expected"),
    [
        (1.0, 8.0, 2, [1, 2, 4, 8]),
        (1.1, 4.5, 2, [1.5, 2, 3, 4]),
        (1300, 3200, 10, [1500, 2000, 3000]),
        # 2, 3, 4 and 500, 1000, 2000 would leave more than a quarter of the axis without a tick.
        (1.85, 5.8, 2, [2, 2.5, 3, 3.5, 4, 5]),
        (205, 4900, 10, [300, 500, 1000, 2000, 3000]),
    ],
)
def test_a_logarithmic_axis_has_round_ticks_up_to_its_ends(low, high, base, expected):
    assert accuracy._ticks(low, high, base) == expected


@pytest.mark.parametrize("name", ["demo", "pocket", "paper"])
def test_students_of_a_figure_differ_in_colour_and_in_marker(name):
    experiment = params.find(name)
    for figure in experiment.figures.values():
        looks = [look_of(experiment, student) for student in set(students_of(experiment, figure))]
        for trait in ("color", "marker"):
            assert len({look[trait] for look in looks}) == len(looks)


def test_four_benchmarks_are_two_rows_and_the_last_panel_of_each_has_the_labels(tmp_path):
    names = ["gsm", "math", "mbpp", "humaneval"]
    asked = {"prompts": "ask", "task": "gsm_boxed"}
    shown = {"caption": "Shown", "teacher": "teacher", "students": ["t3d"], "benchmarks": names}
    shown["budgets"] = ["b8s4", "b8s1"]
    made = experiment(
        benchmarks={name: {"label": name, **asked} for name in names}, tables={}, figures={"shown": shown}
    )
    runs = ("teacher", "t3d-seed0", "t3d-seed1")
    manifests = [
        write_score(made, tmp_path, run, name, budget, "11110000")
        for run in runs
        for name in names
        for budget in ("b8s4", "b8s1")
    ]
    figure = accuracy.draw(made, made.figures["shown"], manifests)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"{name} (n = 8), block size 8" for name in names]
    assert [axis.get_gridspec().get_geometry() for axis in figure.axes] == [(2, 2)] * 4
    labelled = [sorted(text.get_text() for text in axis.texts) for axis in figure.axes]
    assert labelled == [[], ["Original", "T3D"], [], ["Original", "T3D"]]
    assert [bool(axis.get_xlabel()) for axis in figure.axes] == [False, False, True, True]


def test_in_a_crowd_original_and_t3d_alone_have_bands(tmp_path):
    again = [{"label": f"T3D {n}", "model": "t3d", "benchmarks": {"gsm": "gsm"}} for n in "abc"]
    for rows, bands, said in ((again[:2], 4, "questions."), (again, 2, "questions (Original and T3D).")):
        tiny = with_figure(rows=rows)
        figure = accuracy.draw(tiny, tiny.figures["shown"], write_scores(tiny, tmp_path / str(bands)))
        assert len(figure.axes[0].collections) == bands
        assert said in figure.legends[0].get_title().get_text().replace("\n", " ")
