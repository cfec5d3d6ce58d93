"""Small models seldom end an answer: their probes are cut short, which took most of a conversion's time."""

import pytest

from t3d.teachers import probes


@pytest.fixture(scope="module", autouse=True)
def short_probes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "_MAX_NEW_TOKENS", 24)
        yield
