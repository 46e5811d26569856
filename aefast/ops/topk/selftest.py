"""Self-test cases of a sparse code of the largest latents."""

from functools import partial

import torch
from torch import Tensor

from aefast.ops.shared.selftest_case import Case, generators, layer
from aefast.ops.topk import batch_topk_encode, sparse_decode, topk_encode


def cases() -> list[Case]:
    normal, uniform = generators()
    x, weight, bias = layer(normal, uniform)
    # Whole numbers: what is largest does not depend on rounding.
    largest = x.round(), (2 * weight).round(), (2 * bias).round()
    return [
        Case("topk", "largest", partial(topk_encode, k=5), largest),
        Case("topk", "largest of a batch", partial(_batch_values, k=5), largest),
        Case("topk", "decoded", _decode, (normal(33, 5), weight)),
    ]


def _batch_values(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> Tensor:
    values, indices = batch_topk_encode(x, weight, bias, k)
    return values.new_zeros(len(x), len(weight)).scatter_add(1, indices, values)


def _decode(values: Tensor, weight: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(31, (33, 5), generator=generator, dtype=torch.int64, device="cpu")
    return sparse_decode(values, indices.to(values.device), weight)
