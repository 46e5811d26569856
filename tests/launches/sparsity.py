"""Launches of the kernels of aefast/ops/sparsity."""

import torch

from aefast.ops.sparsity import triton


def launch(batch: int) -> None:
    code = torch.zeros(batch, 100)
    triton.kl_sparsity(code, 0.1)
    triton.l1_sparsity(code)
    triton.l1_gradient(code, 0.5)
