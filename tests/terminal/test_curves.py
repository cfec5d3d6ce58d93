"""Training curves for other tools: every number of every step, and no tool is loaded unless it is asked for."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from t3d.errors import MissingInputError, ParameterError
from t3d.terminal import curves
from tests.reporting.helpers import with_figure, write_student

LOG = [{"step": 1, "loss": 3.0, "path_term": 0.5}, {"step": 2, "loss": 1.0, "path_term": 0.25}]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """An experiment of which one run was trained here."""
    monkeypatch.chdir(tmp_path)
    tiny = with_figure(kind="training")
    write_student(tiny, Path("data", tiny.name), "t3d-seed0", LOG)
    return tiny


def test_what_has_the_api_of_wandb_gets_every_number(trained, monkeypatch):
    said = []
    sink = SimpleNamespace(
        init=lambda **given: said.append(
            (given["project"], given["name"], given["config"]["student"]["objective"]["name"])
        ),
        log=lambda row, step: said.append((step, row)),
        finish=lambda: said.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "trackio", sink)
    assert curves.send(trained, "trackio", Path("runs")) == ["students/t3d-seed0"]
    rows = [(1, {"loss": 3.0, "path_term": 0.5}), (2, {"loss": 1.0, "path_term": 0.25})]
    assert said == [(f"t3d-{trained.name}", "t3d-seed0", "t3d"), *rows, "finished"]
    assert not Path("runs").exists()


def test_tensorboard_gets_a_folder_a_run(trained, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            Path(folder).mkdir(parents=True)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            written.append("closed")

        def add_scalar(self, key, value, step):
            written.append((key, value, step))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    curves.send(trained, "tensorboard", Path("runs"))
    assert written == [("loss", 3.0, 1), ("path_term", 0.5, 1), ("loss", 1.0, 2), ("path_term", 0.25, 2), "closed"]
    with pytest.raises(ParameterError, match=f"runs/{trained.name}/t3d-seed0 is there: remove it"):
        curves.send(trained, "tensorboard", Path("runs"))


def test_what_is_not_there_is_said(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingInputError, match=r"wandb is not installed: pip install wandb\."):
        curves.send(trained, "wandb", Path("runs"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(MissingInputError, match="has trained nothing here"):
        curves.send(trained, "tensorboard", Path("runs"))
