"""Every kind of figure through `write`: what lies on disk, and what is refused."""

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError
from t3d.provenance import store, writer
from t3d.reporting import figures
from tests.reporting.helpers import (
    experiment,
    with_figure,
    write_answers,
    write_gaps,
    write_scores,
    write_student,
)

MODELS = ("teacher", "t3d-seed0", "t3d-seed1")


def made(kind, root, shift=0.0):
    """An experiment with a figure of this kind, and the manifests it is drawn from; `shift` moves the numbers."""
    tiny = with_figure(kind=kind)
    if kind == "accuracy":
        return tiny, write_scores(tiny, root)
    if kind == "training":
        logs = {
            seed: [{"step": s, "loss": 1 / s + seed + shift, "gradient_norm": 0.1} for s in (1, 2)] for seed in (0, 1)
        }
        return tiny, [write_student(tiny, root, f"t3d-seed{seed}", log) for seed, log in logs.items()]
    if kind == "commits":
        steps = [1, 1, 2, 2] if shift else [1, 2, 1, 2]
        answer = {"response_ids": [5, 6, 7, 8], "step_map": steps, "response_tokens": 4}
        return tiny, [write_answers(tiny, root, model, "gsm", "b4s2", [answer]) for model in MODELS]
    rows = [(f"r{i}", d, (d - 1) * (1.0 + i + shift), 8 // d) for i in range(4) for d in (1, 2, 4, 8)]
    gaps = pd.DataFrame(rows, columns=["id", "interval", "gap", "terms"])
    return tiny, [write_gaps(tiny, root, model, "rollouts", gaps) for model in MODELS]


KINDS = pytest.mark.parametrize("kind", ["accuracy", "commits", "training", "factorisation"])


@KINDS
def test_a_pdf_and_a_png_that_depend_on_the_inputs_alone(kind, tmp_path, monkeypatch):
    """Not on their order, the date, or a reader's own matplotlibrc; other numbers give another picture."""
    tiny, manifests = made(kind, tmp_path / "data")
    first, second, other = (tmp_path / folder / "shown.pdf" for folder in "abc")
    figures.write(tiny, "shown", manifests, first)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        figures.write(tiny, "shown", manifests[::-1], second)
    assert sorted(path.name for path in first.parent.iterdir()) == ["shown.pdf", "shown.png"]
    assert first.read_bytes().startswith(b"%PDF")
    assert first.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rows = np.flatnonzero((imread(first.with_suffix(".png"))[..., :3] < 0.8).any(axis=(1, 2)))
    height = len(imread(first.with_suffix(".png")))
    assert max(rows[0], height - rows[-1]) < 25, "an empty band, in dots of 1/200 inch"
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".png").read_bytes() == second.with_suffix(".png").read_bytes()
    if kind != "accuracy":
        tiny, manifests = made(kind, tmp_path / "other", 0.5)
        figures.write(tiny, "shown", manifests, other)
        assert first.with_suffix(".png").read_bytes() != other.with_suffix(".png").read_bytes()


@KINDS
def test_an_incomplete_figure_is_not_drawn_and_the_old_one_stays(kind, tmp_path):
    tiny, manifests = made(kind, tmp_path / "data")
    out = tmp_path / "shown.pdf"
    out.write_text("old")
    artefact = store.read(manifests[-1]).artefact
    with pytest.raises(MissingInputError, match=rf"data/tiny/{artefact}\.manifest\.json is not among the .*make it"):
        figures.write(tiny, "shown", manifests[:-1], out)
    assert out.read_text() == "old"
    assert not out.with_suffix(".png").exists()


@KINDS
def test_manifests_of_something_else_are_refused_by_name(kind, tmp_path):
    tiny, manifests = made(kind, tmp_path / "data")
    with pytest.raises(DataError, match=rf"{manifests[0].name}: .* is not asked for, or given twice"):
        figures.write(tiny, "shown", [*manifests, manifests[0]], tmp_path / "shown.pdf")
    other = tmp_path / "learn.manifest.json"
    with writer.writing(tiny, "prompts/learn", other):
        pass
    with pytest.raises(CorruptArtefactError, match=r"learn\.manifest\.json describes prompts/learn, expected one of"):
        figures.write(tiny, "shown", [*manifests, other], tmp_path / "shown.pdf")


@KINDS
def test_inputs_made_with_other_parameters_are_refused(kind, tmp_path):
    tiny, manifests = made(kind, tmp_path / "data")
    content = json.loads(manifests[0].read_text())
    artefact = content["artefact"]
    content["recipe"] = content["recipes"][artefact] = "0" * 64
    manifests[0].write_text(json.dumps(content))
    with pytest.raises(ParameterError, match=f"{artefact} was made with other parameters than params/tiny.yaml"):
        figures.write(tiny, "shown", manifests, tmp_path / "shown.pdf")


@KINDS
def test_a_flipped_byte_of_what_is_read_is_found(kind, tmp_path):
    tiny, manifests = made(kind, tmp_path / "data")
    base = store.read(manifests[0]).base
    damaged = base / "training.jsonl" if kind == "training" else base.with_name(base.name + ".parquet")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CorruptArtefactError, match=damaged.name):
        figures.write(tiny, "shown", manifests, tmp_path / "shown.pdf")


def test_an_unknown_figure_is_named_with_those_there(tmp_path):
    with pytest.raises(ParameterError, match=r"no figure 'acuracy'\. Figures there: accuracy"):
        figures.write(experiment(), "acuracy", [], tmp_path / "acuracy.pdf")
