"""Launches of the kernels of aefast/ops/jumprelu."""

import torch

from aefast.ops.jumprelu import triton


def launch(batch: int) -> None:
    z, parameter, grad = torch.zeros(batch, 100), torch.zeros(100), torch.zeros(batch)
    triton.forward(z, parameter, True)
    triton.forward(z, parameter, False)
    for estimator in ("rectangle", "tanh"):
        triton.backward(z, grad[:, None].expand_as(z), z, parameter, 0.5, estimator, True)
    triton.gated(z, *[parameter] * 3)
    triton.gated_backward((z, z, grad), z, *[parameter] * 3)
    triton.active_latents(z)
