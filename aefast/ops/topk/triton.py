"""Sparse codes over many latents on the GPU.

Encoding multiplies by a panel of latents at a time. After each panel a kernel merges its largest
pre-activations into each row's k largest so far, one program for each row. The gradient of a latent
is added by one program, in the order of the rows: without atomics, so the bits are the same in
every run.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import TYPE_NAMES, Variant, cdiv, device_of

LATENTS_PER_PANEL = 8192
# The candidates that merge_kernel keeps for a row, the next one above k. For a larger k torch's
# stable sort merges the panels.
CAPACITIES = (32, 64, 128, 256)
CHUNK = 1024  # latents that a program compares at a time
COLUMNS = 512  # columns that a program holds at a time


def _variant(kernel: str, types: dict[str, str], constants: dict[str, int], warps: int) -> Variant:
    return Variant(f"topk.triton_kernels.{kernel}", types, constants, warps)


@cache
def _merge_variant(capacity: int) -> Variant:
    types = {"panel_pointer": "*fp32", "best_pointer": "*i64"}
    return _variant("merge_kernel", types, {"CAPACITY": capacity, "CHUNK": CHUNK}, 8)


@cache
def _product_variant(kernel: str, dtype: torch.dtype) -> Variant:
    kind = f"*{TYPE_NAMES[dtype]}"
    types = {
        "decode_kernel": {
            "values_pointer": kind,
            "indices_pointer": "*i64",
            "weight_pointer": kind,
            "bias_pointer": kind,
            "output_pointer": kind,
        },
        "sums_kernel": {
            "values_pointer": kind,
            "order_pointer": "*i64",
            "begin_pointer": "*i64",
            "rows_pointer": kind,
            "sums_pointer": kind,
            "totals_pointer": kind,
        },
    }
    return _variant(kernel, types[kernel], {"COLUMNS": COLUMNS}, 4)


@cache
def _sample_variant(dtype: torch.dtype, weight_dtype: torch.dtype) -> Variant:
    kind = f"*{TYPE_NAMES[dtype]}"
    types = {
        "left_pointer": kind,
        "weight_pointer": f"*{TYPE_NAMES[weight_dtype]}",
        "indices_pointer": "*i64",
        "products_pointer": kind,
    }
    return _variant("sample_kernel", types, {"COLUMNS": COLUMNS}, 4)


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file, the same on all generations."""
    for capacity in CAPACITIES:
        yield _merge_variant(capacity)
    for dtype in TYPE_NAMES:
        for kernel in ("decode_kernel", "sums_kernel"):
            yield _product_variant(kernel, dtype)
        for left in dict.fromkeys((dtype, torch.float32)):
            yield _sample_variant(left, dtype)


def topk_encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    rows, latents, dtype = x.shape[0], weight.shape[0], x.dtype
    x, bias = x.float(), None if bias is None else bias.float()
    capacity = next((size for size in CAPACITIES if size >= k), None)
    best = torch.full((rows, capacity or k), -(2**63), dtype=torch.int64, device=x.device)
    for first in range(0, latents, LATENTS_PER_PANEL):
        width = min(LATENTS_PER_PANEL, latents - first)
        panel_weight = weight[first : first + width].float()
        panel_bias = None if bias is None else bias[first : first + width]
        panel = triton_gemm.multiply(x, panel_weight, panel_bias)[0]
        if capacity is None:
            candidates = _candidates(panel, first)
            best = torch.cat([best, candidates], 1).sort(1, descending=True)[0][:, :k]
        else:
            with device_of(x):
                _merge_variant(capacity).launch(
                    rows,
                    panel_pointer=panel,
                    best_pointer=best,
                    row_stride=panel.stride(0),
                    width=width,
                    first=first,
                )
    best = best[:, :k]
    return _values(best).to(dtype), 0xFFFFFFFF - (best & 0xFFFFFFFF)


def _candidates(values: Tensor, first: int) -> Tensor:
    """An integer for each value and latent whose order is theirs, the same as merge_kernel's."""
    bits = (values + 0.0).view(torch.int32)
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    order = torch.where(values.isnan(), 0x7FFFFFFF, order).long()
    latents = torch.arange(first, first + values.shape[1], dtype=torch.int64, device=values.device)
    return order * 2**32 + (0xFFFFFFFF - latents)


def _values(candidates: Tensor) -> Tensor:
    order = (candidates >> 32).int()
    return torch.where(order < 0, order ^ 0x7FFFFFFF, order).view(torch.float32)


def sparse_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    values, indices, weight = values.contiguous(), indices.contiguous(), weight.contiguous()
    rows, active, columns = *values.shape, weight.shape[1]
    output = values.new_empty(rows, columns)
    start = output.new_zeros(columns) if bias is None else bias.contiguous()
    blocks = cdiv(columns, COLUMNS)
    with device_of(values):
        _product_variant("decode_kernel", values.dtype).launch(
            rows * blocks,
            values_pointer=values,
            indices_pointer=indices,
            weight_pointer=weight,
            bias_pointer=start,
            output_pointer=output,
            active=active,
            latents=weight.shape[0],
            columns=columns,
            blocks=blocks,
        )
    return output


def sampled_product(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    """left[row] @ weight[latent] for each index, in left's dtype: weight's, or float32."""
    left, weight, indices = left.contiguous(), weight.contiguous(), indices.contiguous()
    products = left.new_empty(indices.shape)
    with device_of(left):
        _sample_variant(left.dtype, weight.dtype).launch(
            indices.numel(),
            left_pointer=left,
            weight_pointer=weight,
            indices_pointer=indices,
            products_pointer=products,
            active=indices.shape[1],
            latents=weight.shape[0],
            columns=left.shape[1],
        )
    return products


def latent_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    values, rows = values.contiguous(), rows.contiguous()
    ordered, order = indices.reshape(-1).sort(stable=True)
    numbers = torch.arange(latents + 1, dtype=torch.int64, device=values.device)
    begin = torch.searchsorted(ordered, numbers)
    columns = rows.shape[1]
    sums, totals = values.new_empty(latents, columns), values.new_empty(latents)
    blocks = cdiv(columns, COLUMNS)
    with device_of(values):
        _product_variant("sums_kernel", values.dtype).launch(
            latents * blocks,
            values_pointer=values,
            order_pointer=order,
            begin_pointer=begin,
            rows_pointer=rows,
            sums_pointer=sums,
            totals_pointer=totals,
            active=values.shape[1],
            columns=columns,
            blocks=blocks,
        )
    return sums, totals
