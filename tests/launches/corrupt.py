"""Launches of the kernels of aefast/ops/corrupt."""

import torch

from aefast.ops.corrupt import triton
from aefast.ops.corrupt.noise import Noise
from aefast.random import DrawStep


def launch(batch: int) -> None:
    x = torch.zeros(batch, 96)
    for seed in (0, 1, 16, 2**40):
        triton.corrupt(x, Noise("masking", 0.5, 0.0, 0.0, seed, batch, DrawStep.MASKING.value))
