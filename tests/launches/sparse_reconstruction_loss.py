"""Launches of the kernels of aefast/ops/sparse_reconstruction_loss."""

import torch

from aefast.ops.sparse_reconstruction_loss import triton


def launch(batch: int) -> None:
    values, target, weight = torch.zeros(batch, 3), torch.zeros(batch, 96), torch.zeros(100, 96)
    indices = torch.zeros(batch, 3, dtype=torch.int64)
    triton.sparse_reconstruction_loss(values, indices, weight, None, target)
