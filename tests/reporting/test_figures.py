import pytest

from t3d.errors import MissingInputError, ParameterError
from t3d.reporting.figures import accuracy_figure
from tests.reporting.helpers import experiment, write_scores


def test_a_pdf_and_a_png_that_depend_on_the_scores_alone(tmp_path, monkeypatch):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path / "data")
    first, second = tmp_path / "a" / "accuracy.pdf", tmp_path / "b" / "accuracy.pdf"
    accuracy_figure(tiny, "accuracy", manifests, first)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    accuracy_figure(tiny, "accuracy", manifests[::-1], second)
    assert sorted(path.name for path in first.parent.iterdir()) == ["accuracy.pdf", "accuracy.png"]
    assert first.read_bytes().startswith(b"%PDF")
    assert first.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".png").read_bytes() == second.with_suffix(".png").read_bytes()


def test_an_incomplete_figure_is_not_drawn(tmp_path):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path / "data")
    with pytest.raises(MissingInputError):
        accuracy_figure(tiny, "accuracy", manifests[1:], tmp_path / "accuracy.pdf")
    assert not (tmp_path / "accuracy.pdf").exists()


def test_an_unknown_figure_is_named_with_those_there(tmp_path):
    with pytest.raises(ParameterError, match=r"no figure 'acuracy'\. Figures there: accuracy"):
        accuracy_figure(experiment(), "acuracy", [], tmp_path / "acuracy.pdf")
