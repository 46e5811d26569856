"""Losses that are summed before one backward pass hold no more memory than eager PyTorch's."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from aefast import backend, nn
from tests.nn.test_conventions import MODULES, build

if backend.unavailable("cpp", "cpu"):
    pytest.skip("the C++ extension is not built", allow_module_level=True)

TRAINED = [name for name in MODULES if hasattr(getattr(nn, name), "loss")]
TRAINED.remove("SparseDictionary")  # what the dictionaries share


def bytes_held(model, batches):
    """What was allocated until the losses are summed, less what was freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        total = sum(model.loss(x, seed=seed) for seed, x in enumerate(batches))
    assert total.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiled.events())


@pytest.mark.parametrize("name", TRAINED)
def test_summed_losses_hold_no_more_than_the_definitions(name):
    """Of batches that are larger than the layers, whose gradients the kernels hold instead."""
    batches = torch.rand(2, 256, 8)
    held = {}
    for chosen in ("cpp", "eager"):
        model = build(name)
        model.loss(batches[0], seed=0)  # what is allocated once
        with backend.use_backend(chosen):
            held[chosen] = bytes_held(model, batches)
    assert 0 < held["cpp"] <= held["eager"]
