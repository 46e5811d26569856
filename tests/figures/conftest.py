"""The figures take what the package itself does without."""

import importlib.util

import pytest
import torch

missing = [name for name in ("sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing else []


@pytest.fixture(scope="module")
def measured(request):
    """What the figure that a test module is named after measures, on one thread, once."""
    from aefast import figures

    name = request.module.__name__.rpartition("test_")[2]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield figures.find(name).measure()
    torch.set_num_threads(before)
