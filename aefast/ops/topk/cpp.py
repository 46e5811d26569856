"""Sparse codes over many latents in C++: csrc/ops/topk/, around the products of csrc/gemm/."""

import torch
from torch import Tensor

from aefast.ops.shared.cpp import as_matrix
from aefast.ops.shared.extension import _C
from aefast.ops.shared.precision import product_level


def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    dtype = x.dtype
    x, weight = x.float(), weight.float()
    bias = None if bias is None else bias.float().contiguous()
    values = torch.FloatTensor(x.shape[0], k)
    indices = torch.LongTensor(x.shape[0], k)
    _C.topk_encode(
        as_matrix(x),
        as_matrix(weight),
        0 if bias is None else bias.data_ptr(),
        k,
        values.data_ptr(),
        indices.data_ptr(),
        getattr(_C.Precision, product_level("cpu")),
        torch.get_num_threads(),
    )
    return values.to(dtype), indices


def sparse_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    dense, indices, rows = values.float().contiguous(), indices.contiguous(), by_rows(weight)
    start = None if bias is None else bias.float().contiguous()
    output = torch.FloatTensor(values.shape[0], weight.shape[1])
    _C.sparse_decode(
        as_matrix(dense),
        indices.data_ptr(),
        as_matrix(rows),
        0 if start is None else start.data_ptr(),
        output.data_ptr(),
        torch.get_num_threads(),
    )
    return output.to(values.dtype)


def sampled_product(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    dense, rows, indices = by_rows(left), by_rows(weight), indices.contiguous()
    products = torch.FloatTensor(*indices.shape)
    _C.sampled_product(
        as_matrix(dense),
        as_matrix(rows),
        indices.data_ptr(),
        indices.shape[1],
        products.data_ptr(),
        torch.get_num_threads(),
    )
    return products.to(left.dtype)


def latent_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    dense, indices, matrix = values.float().contiguous(), indices.contiguous(), by_rows(rows)
    sums = torch.FloatTensor(latents, rows.shape[1])
    totals = torch.FloatTensor(latents)
    _C.latent_sums(
        as_matrix(dense),
        indices.data_ptr(),
        as_matrix(matrix),
        sums.data_ptr(),
        totals.data_ptr(),
        latents,
        torch.get_num_threads(),
    )
    return sums.to(values.dtype), totals.to(values.dtype)


def by_rows(matrix: Tensor) -> Tensor:
    """A matrix in float32, each row contiguous."""
    matrix = matrix.float()
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
