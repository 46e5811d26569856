"""Launches of the kernels of aefast/ops/sparse_coding."""

import torch

from aefast.ops.sparse_coding import triton
from aefast.ops.sparse_coding.problem import Problem


def launch(batch: int) -> None:
    x, energy = torch.zeros(batch, 96), torch.ones(batch)
    triton.soft_threshold_backward(x, triton.soft_threshold(x, 0.1 * batch), 0.5)
    lasso = Problem(torch.zeros(batch, 100), torch.eye(100), energy, 0.1, 1e-8, batch % 3)
    triton.encode(lasso, lasso.correlation)
