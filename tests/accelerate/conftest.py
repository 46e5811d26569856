"""Fixture: our kernels serve however small a call is."""

import pytest

from aefast.acceleration import draws, stack


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch is faster at small calls, which are left to it; not in these tests."""
    monkeypatch.setattr(draws, "FEWEST", 0)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(stack, "outpaces_vendor", lambda size: True)
