"""Self-test case of the squared error of what sparse codes reconstruct."""

import torch
from torch import Tensor

from aefast.ops.shared.selftest_case import Case, generators
from aefast.ops.sparse_reconstruction_loss import sparse_reconstruction_loss


def cases() -> list[Case]:
    normal, uniform = generators()
    tensors = normal(33, 5), normal(31, 47) / 4, normal(47) / 2, uniform(33, 47)
    return [Case("sparse_reconstruction_loss", "of codes", _loss, tensors)]


def _loss(values: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(31, (33, 5), generator=generator, dtype=torch.int64, device="cpu")
    return sparse_reconstruction_loss(values, indices.to(values.device), weight, bias, target)
