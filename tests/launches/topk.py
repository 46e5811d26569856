"""Launches of the kernels of aefast/ops/topk."""

import torch

from aefast.ops.topk import triton


def launch(batch: int) -> None:
    x, weight, bias = torch.zeros(batch, 96), torch.zeros(100, 96), torch.zeros(100)
    indices = torch.zeros(batch, 3, dtype=torch.int64)
    triton.topk_encode(x, weight, bias, 3)
    triton.sparse_decode(x[:, :3], indices, weight, None)
    triton.sampled_product(x, weight, indices)
    triton.latent_sums(x[:, :3], indices, x, 100)
