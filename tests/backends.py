"""Marks that choose the backends of a test."""

import pytest
import torch

from aefast import backend
from aefast.acceleration import draws, stack

# For tests that do not depend on the kernel: the interpreter is slow, other backends run them.
not_interpreted = pytest.mark.interpreted(device=[])


def is_interpreted(device: torch.device) -> bool:
    """Whether Triton's interpreter runs the kernels. It is slow: tests take small shapes there."""
    return device.type == "cpu" and backend.select(device, torch.float32) == "triton"


# For tests of an op in torch.compile and the like, which are the same whatever kernel runs.
same_on_numba = pytest.mark.same_on_numba

# numba takes seconds to compile, and its kernels have tests of their own.
on_backends = pytest.mark.parametrize(
    "name", ["cpp", pytest.param("numba", marks=pytest.mark.slow), "eager"]
)


def serve_small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels serve an accelerated model's calls however small, where torch is faster."""
    monkeypatch.setattr(draws, "FEWEST", 0)
    monkeypatch.setattr(stack, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(stack, "outpaces_vendor", lambda size: True)
