"""Launches of the kernels of aefast/ops/contractive."""

import torch

from aefast.ops.contractive import triton


def launch(batch: int) -> None:
    primitives = triton.primitives()
    for dtype in (torch.float32, torch.bfloat16):
        code = torch.zeros(batch, 100, dtype=dtype)
        lengths, grad = primitives.row_lengths(torch.ones(100, 3)), torch.ones(batch)
        primitives.penalty(code, "tanh", lengths)
        primitives.penalty_backward(code, "tanh", None, grad, lengths)
        primitives.slope_backward(code, "tanh", code, code)
