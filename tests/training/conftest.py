"""Fixtures for the tests of training."""

import pytest


@pytest.fixture
def ordinary_loop(monkeypatch):
    """Turn the engines with kernels off, so that the ordinary loop takes the steps."""
    engines = pytest.importorskip("aefast.training.engines")
    loop = pytest.importorskip("aefast.training.loop")
    monkeypatch.setattr(
        loop,
        "choose_engine",
        lambda module, rows, optimizer, loss, batch_size, group: engines.LoopEngine(
            module, rows, optimizer, loss, "a test looks on"
        ),
    )
