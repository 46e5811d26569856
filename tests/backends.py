"""Where an op runs in a test."""

import pytest
import torch

from aefast import backend

# For a test of what surrounds the kernels, which any of them serves: the interpreter is slow.
not_interpreted = pytest.mark.interpreted(device=[])


def is_interpreted(device: torch.device) -> bool:
    """Whether Triton's interpreter serves, which is slow: shapes are small there."""
    return device.type == "cpu" and backend.select(device, torch.float32) == "triton"


# For a test of what torch makes of an op, as its compiler does, which sees no kernel: one serves.
same_on_numba = pytest.mark.same_on_numba

# Numba takes seconds to compile what its ops' own tests prove.
on_backends = pytest.mark.parametrize(
    "name", ["cpp", pytest.param("numba", marks=pytest.mark.slow), "eager"]
)
