"""The smallest experiment that has an artefact with an input."""

import pytest

from t3d.params import Experiment


@pytest.fixture
def experiment():
    return Experiment(
        name="x",
        teachers={"m": {"source": "pretrain", "pretraining": {}}},
        prompt_sets={"p": {"teacher": "m", "split": "test", "count": 3}},
    )
