"""Fixture: our kernels draw however few the numbers are."""

import pytest

from aefast.acceleration import draws


@pytest.fixture(autouse=True)
def small_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch draws few numbers faster, so the kernels leave these to it; not in these tests."""
    monkeypatch.setattr(draws, "FEWEST_OF_DROPOUT", 0)
    monkeypatch.setattr(draws, "FEWEST", 0)
