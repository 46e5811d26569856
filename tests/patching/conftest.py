"""No test leaves a library patched behind."""

import pytest

from aefast import patching


@pytest.fixture(autouse=True)
def unpatched():
    yield
    if patching._installed:
        patching.unpatch()
