"""The squared error of what sparse codes reconstruct on the GPU.

A kernel decodes and compares; the products with the code's latents are topk's, of float32 rows.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared.triton import TYPE_NAMES, Variant, cdiv, device_of
from aefast.ops.topk import triton as topk
from aefast.ops.topk.triton import COLUMNS


@cache
def _compare_variant(dtype: torch.dtype) -> Variant:
    kind = f"*{TYPE_NAMES[dtype]}"
    types = {
        "values_pointer": kind,
        "indices_pointer": "*i64",
        "weight_pointer": kind,
        "bias_pointer": kind,
        "target_pointer": kind,
        "residual_pointer": "*fp32",
        "squares_pointer": "*fp32",
    }
    kernel = "sparse_reconstruction_loss.triton_kernels.compare_kernel"
    return Variant(kernel, types, {"COLUMNS": COLUMNS}, 4)


def variants(generation: int) -> Iterator[Variant]:
    """Every cubin that the op launches beside topk's; the same on all generations."""
    for dtype in TYPE_NAMES:
        yield _compare_variant(dtype)


def sparse_reconstruction_loss(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    values, indices, weight = values.contiguous(), indices.contiguous(), weight.contiguous()
    target = target.contiguous()
    rows, active, columns = *values.shape, weight.shape[1]
    start = values.new_zeros(columns) if bias is None else bias.contiguous()
    blocks = cdiv(columns, COLUMNS)
    residual = values.new_empty(target.shape, dtype=torch.float32)
    squares = values.new_empty(rows * blocks, dtype=torch.float32)
    with device_of(values):
        _compare_variant(values.dtype).launch(
            rows * blocks,
            values_pointer=values,
            indices_pointer=indices,
            weight_pointer=weight,
            bias_pointer=start,
            target_pointer=target,
            residual_pointer=residual,
            squares_pointer=squares,
            active=active,
            latents=weight.shape[0],
            columns=columns,
            blocks=blocks,
        )
    slopes = topk.sampled_product(residual, weight, indices)
    return squares.sum(), residual, slopes
