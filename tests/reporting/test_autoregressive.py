"""The row of an autoregressive model: once per benchmark where vLLM answered, and a note where it did not; its level
line in a figure."""

import pandas as pd
import pytest

from t3d.params import Experiment
from t3d.provenance import lineage, trace
from t3d.reporting import tables
from t3d.reporting.figures import accuracy
from tests.reporting.helpers import experiment, with_autoregressive, write_score, write_scores, write_served

TABLES = ("accuracy", "cost")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder without vLLM, in which the students' scores are; and its experiment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lineage, "VLLM", tmp_path / "vllm")
    made = with_autoregressive()
    write_scores(made, tmp_path / "data" / made.name)
    return tmp_path, made


def written(project, name):
    """CSV and Markdown of a table, made from what the DAG would make it from."""
    folder, made = project
    material = [
        folder / "data" / made.name / f"{a}.manifest.json" for a in lineage.inputs_of_target(made, made.tables[name])
    ]
    out = folder / f"{name}.csv"
    tables.write(made, name, material, out)
    return pd.read_csv(out), out.with_suffix(".md").read_text()


def test_its_accuracy_stands_once_and_changes_no_other_row(project):
    without, _ = written(project, "accuracy")
    write_served(project[1], project[0] / "data" / "tiny")
    tidy, _ = written(project, "accuracy")
    rows = tidy[tidy["method"] == "AR (vLLM)"]
    assert tidy[tidy["method"] != "AR (vLLM)"].astype(object).equals(without.astype(object))
    assert rows["benchmark"].tolist() == ["gsm", "average"]
    assert rows["accuracy"].tolist() == [87.5, 87.5]
    assert rows[["tokens_per_step", "threshold", "block_size", "p_value", "difference"]].isna().all(axis=None)


def test_its_speed_stands_saturated_and_at_batch_1(project):
    write_served(project[1], project[0] / "data" / "tiny")
    tidy, _ = written(project, "cost")
    values = tidy[tidy["block_size"].isna()].set_index(["method", "metric"])["value"]
    assert values["AR (vLLM), saturated"].to_dict() == {
        "tokens_per_second": 100,
        "latency_seconds": 0.16,
        "steps": 8,
        "response_tokens": 16,
        "tokens_per_step": 2,
        "accuracy": 87.5,
    }
    assert values["AR (vLLM), batch 1"].to_dict() == {"tokens_per_second": 20, "latency_seconds": 0.8}


@pytest.mark.parametrize("name", TABLES)
def test_without_its_scores_the_row_is_absent_and_the_table_says_so(project, name):
    tidy, text = written(project, name)
    assert set(tidy["method"]) == {"Original", "T3D"}
    assert "AR (vLLM): no row, for vLLM has not answered here (docs/vllm.md)." in text


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_names_none_says_nothing_of_it(project, name):
    folder, made = project
    bare = made.tables[name].model_copy(update={"autoregressive": None})
    plain = made.model_copy(update={"tables": {name: bare}})
    tidy, text = written((folder, plain), name)
    assert "vLLM" not in text
    assert tidy.equals(written(project, name)[0])


def test_its_scores_are_material_where_they_are_or_can_be_made(project):
    folder, made = project
    table, score = made.tables["accuracy"], "scores/ar/gsm/b1s1"
    assert score not in lineage.inputs_of_target(made, table)
    (folder / "vllm").mkdir()
    (folder / "vllm" / "installed").touch()
    assert lineage.inputs_of_target(made, table)[-1] == score
    assert lineage.artefacts_of(made, [table])[-3:] == ["teachers/ar", "answers/ar/gsm/b1s1", score]
    assert score not in lineage.inputs_of_target(made, table, here=True)
    (folder / "vllm" / "installed").unlink()
    write_served(made, folder / "data" / "tiny")
    assert lineage.inputs_of_target(made, table)[-1] == lineage.inputs_of_target(made, table, here=True)[-1] == score


def test_scores_of_other_parameters_are_no_material(project):
    folder, made = project
    write_served(made, folder / "data" / "tiny")
    content = made.model_dump(mode="json", exclude_unset=True)
    content["teachers"]["ar"]["pretraining"] = {"steps": 7}
    edited = Experiment.model_validate(content)
    assert "scores/ar/gsm/b1s1" not in lineage.inputs_of_target(edited, edited.tables["accuracy"])


def test_its_cells_can_be_traced(project):
    folder, made = project
    write_served(made, folder / "data" / "tiny")
    assert "ar/gsm/b1s1" in trace.cells(made, "accuracy")
    (found,) = trace.trace(made, "accuracy", "ar/gsm/b1s1", commands={}).values()
    assert {origin.artefact for origin in found.origins} >= {"scores/ar/gsm/b1s1", "answers/ar/gsm/b1s1", "teachers/ar"}


def drawn(project, name="level"):
    """A figure made from what the DAG would make it from, and its note."""
    folder, made = project
    artefacts = lineage.inputs_of_target(made, made.figures[name], here=True)
    manifests = [folder / "data" / made.name / f"{artefact}.manifest.json" for artefact in artefacts]
    figure = accuracy.draw(made, made.figures[name], manifests)
    return figure, figure.legends[0].get_title().get_text().replace("\n", " ")


def levels(axis):
    """Heights of the lines that cross the whole panel."""
    return [line.get_ydata()[0] for line in axis.lines if list(line.get_xdata()) == [0, 1]]


def test_a_figure_has_its_accuracy_as_a_level_line_in_each_panel(project):
    write_served(project[1], project[0] / "data" / "tiny")
    figure, note = drawn(project)
    assert [levels(axis) for axis in figure.axes] == [[87.5], [87.5]]
    assert "AR (vLLM)" in {text.get_text() for text in figure.axes[-1].texts}
    assert note.endswith("Level dotted line: AR (vLLM), one token per forward.")
    # Its interval, besides those of the others.
    assert [len(axis.patches) for axis in figure.axes] == [1, 1]


def test_without_its_scores_a_figure_is_as_one_that_names_none(project):
    figure, note = drawn(project)
    plain, said = drawn(project, "accuracy")
    assert note == said
    assert not any(levels(axis) for axis in figure.axes)
    assert [len(axis.lines) for axis in figure.axes] == [len(axis.lines) for axis in plain.axes]


def test_far_above_the_others_it_is_written_at_the_edge_and_squeezes_no_line(project):
    folder, made = project
    for artefact in lineage.inputs_of_target(made, made.figures["level"], here=True):
        write_score(made, folder / "data" / "tiny", *artefact.split("/")[1:], "0" * 100)
    below = drawn(project)[0].axes[0].get_ylim()
    write_served(made, folder / "data" / "tiny", "1" * 60 + "0" * 40)
    figure, note = drawn(project)
    assert [levels(axis) for axis in figure.axes] == [[], []]
    assert figure.axes[0].get_ylim() == below
    assert "AR (vLLM): 60.0 [50.2, 69.1] ↑" in {text.get_text() for text in figure.axes[0].texts}
    assert note.endswith("one token per forward; ↑: above the panel.")


def test_its_scores_are_material_of_the_figure(project):
    folder, made = project
    write_served(made, folder / "data" / "tiny")
    assert lineage.inputs_of_target(made, made.figures["level"])[-1] == "scores/ar/gsm/b1s1"
    assert "scores/ar/gsm/b1s1" not in lineage.inputs_of_target(made, made.figures["accuracy"])


def test_a_figure_of_an_experiment_with_one_is_as_before(project):
    made = project[1]
    figure = made.figures["accuracy"]
    assert lineage.inputs_of_target(made, figure) == lineage.inputs_of_target(experiment(), figure)
