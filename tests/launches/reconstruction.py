"""Launches of the kernels of aefast/ops/reconstruction."""

import torch

from aefast.ops.reconstruction import triton
from aefast.ops.reconstruction.settings import LossSettings, PerInput


def launch(batch: int) -> None:
    weight, bias = torch.zeros(100, 96), torch.zeros(100)
    settings = LossSettings("sigmoid", "identity", "mse", None, 0.0, 0, 0)
    needs_grad = PerInput(False, True, True, True, True, False)
    x, decoder = torch.zeros(batch, 96), weight.T.contiguous()
    inputs = PerInput(x, weight, bias, decoder, torch.zeros(96), None)
    triton.reconstruction_loss(inputs, settings, 0.5, needs_grad)
    halves = PerInput(*(None if t is None else t.bfloat16() for t in inputs))
    triton.reconstruction_loss(halves, settings, 1.0, PerInput(*[False] * 6))
