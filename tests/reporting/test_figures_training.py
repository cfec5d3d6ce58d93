"""Training curves: which panels are drawn, and what their lines are."""

import json
import math

import pytest

from t3d.errors import CorruptArtefactError, MissingInputError
from t3d.provenance import store, writer
from t3d.reporting.figures import training
from t3d.reporting.figures.style import look_of
from tests.artefacts import inputs_of
from tests.reporting.helpers import with_figure, write_student


def entry(step, loss, **parts):
    return {"step": step, "loss": loss, **parts, "gradient_norm": 0.5, "learning_rate": 1e-4}


def drawn(tmp_path, logs):
    tiny = with_figure(kind="training")
    manifests = [write_student(tiny, tmp_path, f"t3d-seed{seed}", log) for seed, log in enumerate(logs)]
    return tiny, training.draw(tiny, tiny.figures["shown"], manifests)


def test_a_panel_for_each_quantity_that_was_logged_and_no_other(tmp_path):
    parts = {"real_term": 0.7, "fake_term": 0.6, "path_term": 0.1, "disagreement": 0.2}
    _, figure = drawn(tmp_path, [[entry(1, 1.0, **parts), entry(2, 0.5, **parts)]] * 2)
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == [
        *("Loss (nats)", "DDO, real term (nats)", "DDO, fake term (nats)", "Path term (nats)"),
        *("Disagreement (share)", "Gradient norm"),
    ]
    # The terms have a line at log 2, and the tick there says so.
    for axis in figure.axes[1:3]:
        assert axis.lines[-1].get_ydata()[0] == pytest.approx(math.log(2))
        assert axis.yaxis.get_major_formatter()(math.log(2), 0) == "log 2"
        assert axis.yaxis.get_major_formatter()(math.log(2) - 0.00025, 0) == "\N{MINUS SIGN}0.00025"


def test_a_line_is_the_mean_over_seeds_of_every_step_and_its_band_their_range(tmp_path):
    tiny, figure = drawn(tmp_path, [[entry(1, 3.0), entry(2, 1.0)], [entry(1, 1.0), entry(2, 0.0)]])
    axis = figure.axes[0]
    (line,) = axis.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 2], [2.0, 0.5])
    assert line.get_color() == look_of(tiny, "t3d")["color"]
    corners = axis.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(1.0, 1.0), (1.0, 3.0), (2.0, 0.0), (2.0, 1.0)}
    note = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "not smoothed" in note
    assert "mean over training seeds" in note


def test_gradient_norms_of_several_decades_have_a_logarithmic_axis(tmp_path):
    log = [entry(1, 1.0) | {"gradient_norm": 0.01}, entry(2, 1.0) | {"gradient_norm": 10.0}]
    _, figure = drawn(tmp_path, [log, log])
    assert [axis.get_yscale() for axis in figure.axes] == ["linear", "log"]


def test_a_converted_teacher_has_points_where_prompts_were_decoded(tmp_path):
    """Beside its loss; a student in the same figure has no such panels' lines."""
    tiny = with_figure(kind="training")
    content = tiny.model_dump(exclude_unset=True)
    content["teachers"] |= {
        "ar": {"source": "pretrain", "attention": "causal", "pretraining": {}, "label": "AR"},
        "made": {"source": "convert", "initial": "ar", "generations": ["own"], "label": "Converted"},
        "again": {"source": "convert", "initial": "ar", "generations": ["own"], "label": "Once more"},
    }
    content["prompt_sets"]["asked"] = {"teacher": "ar", "split": "train", "count": 4}
    content["generations"] = {"own": {"prompts": "asked"}}
    content["figures"]["shown"]["teachers"] = ["made"]
    tiny = type(tiny).model_validate(content)
    log = [entry(step, 4.0 - step) for step in (1, 2, 3)]
    for each, share in ((log[0], 0.25), (log[2], 0.75)):
        each["probes"] = {"complete": share, "nll": 2.0 - share, "own_nll": 0.5, "texts": ["a"], "response_tokens": 9.0}
    outs = [tmp_path / "teachers" / f"{name}.manifest.json" for name in ("made", "again")]
    for out in outs:
        artefact = f"teachers/{out.name.partition('.')[0]}"
        with writer.writing(tiny, artefact, out, inputs_of(tiny, tmp_path, artefact)) as job:
            (job.folder() / "training.jsonl").write_text("".join(json.dumps(each) + "\n" for each in log))
    out = outs[0]
    students = [write_student(tiny, tmp_path, f"t3d-seed{seed}", [entry(1, 1.0)]) for seed in range(2)]
    figure = training.draw(tiny, tiny.figures["shown"], [out, *students])
    panels = {axis.get_title("left"): axis for axis in figure.axes}
    assert list(panels) == ["Loss (nats)", "Gradient norm", "Answers that end (share)", "NLL by the AR model (nats)"]
    lines = {title: [line.get_xydata().tolist() for line in axis.lines] for title, axis in panels.items()}
    assert lines["Answers that end (share)"] == [[[1, 0.25], [3, 0.75]]]
    assert lines["NLL by the AR model (nats)"] == [[[1, 1.75], [3, 1.25]], [[1, 0.5], [3, 0.5]]]
    assert lines["Loss (nats)"] == [[[1, 3.0], [2, 2.0], [3, 1.0]], [[1, 1.0]]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Converted", "T3D"]
    # Of two conversions each has a colour.
    shown = content["figures"]["shown"] | {"teachers": ["made", "again"]}
    both = type(tiny).model_validate(content | {"figures": {"shown": shown}})
    colours = [
        line.get_color() for line in training.draw(both, both.figures["shown"], [*outs, *students]).axes[0].lines
    ]
    assert colours[0] == panels["Loss (nats)"].lines[0].get_color()
    assert len(set(colours[:2])) == 2


@pytest.mark.parametrize("text", ["not json\n", '{"loss": 1.0}\n', '{"step": 1, "loss": "high"}\n', ""])
def test_a_log_the_trainer_does_not_write_is_named(tmp_path, text):
    tiny = with_figure(kind="training")
    out = tmp_path / "students" / "t3d-seed0.manifest.json"
    with writer.writing(tiny, "students/t3d-seed0", out) as job:
        (job.folder() / "training.jsonl").write_text(text)
    with pytest.raises(CorruptArtefactError, match=r"t3d-seed0/training\.jsonl(, line 1: | is not a training log)"):
        training.read_log(store.read(out))


def test_a_student_without_a_log_is_named(tmp_path):
    tiny = with_figure(kind="training")
    out = tmp_path / "students" / "t3d-seed0.manifest.json"
    with writer.writing(tiny, "students/t3d-seed0", out) as job:
        (job.folder() / "config.json").write_text("{}")
    with pytest.raises(CorruptArtefactError, match=r"lists no t3d-seed0/training\.jsonl"):
        training.read_log(store.read(out))


def test_weights_need_not_be_here_and_the_logs_must(tmp_path):
    tiny = with_figure(kind="training")
    manifests = [tmp_path / "students" / f"t3d-seed{seed}.manifest.json" for seed in range(2)]
    folders = [store.read(write_student_with_weights(tiny, out)).base for out in manifests]
    for folder in folders:
        (folder / "model.safetensors").unlink()
    training.draw(tiny, tiny.figures["shown"], manifests)
    (folders[0] / training.LOG).unlink()
    with pytest.raises(MissingInputError, match=r"t3d-seed0/training\.jsonl is missing"):
        training.draw(tiny, tiny.figures["shown"], manifests)


def write_student_with_weights(experiment, out):
    artefact = f"students/{out.name.partition('.')[0]}"
    with writer.writing(experiment, artefact, out, inputs_of(experiment, out.parents[1], artefact)) as job:
        (job.folder() / "model.safetensors").write_text("weights")
        (job.folder() / training.LOG).write_text(json.dumps(entry(1, 1.0)) + "\n")
    return out


def test_a_log_edited_behind_its_manifest_is_refused(tmp_path):
    tiny = with_figure(kind="training")
    out = write_student(tiny, tmp_path, "t3d-seed0", [entry(1, 1.0)])
    log = tmp_path / "students" / "t3d-seed0" / "training.jsonl"
    log.write_text(log.read_text().replace("1.0", "0.5"))
    with pytest.raises(
        CorruptArtefactError, match=r"training\.jsonl is not the log that .*t3d-seed0\.manifest\.json lists"
    ):
        training.read_log(store.read(out))
