"""Fixture: undo a test's patches at its end."""

import pytest

from aefast import patching


@pytest.fixture(autouse=True)
def unpatched():
    yield
    if patching._installed:
        patching.unpatch()
