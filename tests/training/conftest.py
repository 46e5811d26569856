"""What the tests of training share."""

import pytest


@pytest.fixture
def ordinary_loop(monkeypatch):
    """No kernel takes the steps: each stage's loss is called."""
    engines = pytest.importorskip("aefast.training.engines")
    loop = pytest.importorskip("aefast.training.loop")
    monkeypatch.setattr(
        loop,
        "choose_engine",
        lambda module, rows, optimizer, loss, group: engines.LoopEngine(
            module, rows, optimizer, loss, "a test looks on"
        ),
    )
