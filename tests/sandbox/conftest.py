"""The sandboxes that a test starts."""

import pytest

from t3d.sandbox import sandbox


@pytest.fixture
def started(monkeypatch):
    """The sandboxes started by a test."""
    found = []

    class Counted(sandbox.Zygote):
        def __init__(self, kind):
            super().__init__(kind)
            found.append(self)

    monkeypatch.setattr(sandbox, "Zygote", Counted)
    return found
