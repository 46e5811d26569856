"""Fixture: our kernels serve however small a call is."""

import pytest

from tests.backends import serve_small_calls


@pytest.fixture(autouse=True)
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    serve_small_calls(monkeypatch)
