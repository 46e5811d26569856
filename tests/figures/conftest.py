"""The figures take what the package itself does without."""

import importlib.util

import pytest

missing = [name for name in ("sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing else []


@pytest.fixture(scope="module")
def measured(request):
    """What the figure that a test module is named after measures, once."""
    from aefast import figures

    name = request.module.__name__.rpartition("test_")[2]
    return figures.find(name).measure()
