"""The gradient by a layer's pre-activation on the GPU, and its sums over the rows, in one pass."""

from collections.abc import Hashable, Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared import triton_packed
from aefast.ops.shared.triton import (
    ACTIVATIONS,
    TYPE_NAMES,
    PlannedLaunch,
    Variant,
    cdiv,
    device_of,
    strides_of,
)
from aefast.ops.shared.triton_gemm import alignment, is_aligned, padded
from aefast.ops.shared.triton_packed import Packed, PackedLaunches

GRADIENT_ROWS, GRADIENT_COLUMNS, GRADIENT_STEPS = 16, 128, 8
ADDED_BLOCKS, ADDED_COLUMNS = 32, 64

_packed = PackedLaunches()
_packed_sums = PackedLaunches()


def variants(dtype: torch.dtype) -> Iterator[Variant]:
    for aligned in (True, False):
        yield variant(dtype, aligned)
    yield _sum_variant(dtype)


@cache
def variant(dtype: torch.dtype, aligned: bool) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    types = {
        "grad_pointer": pointer,
        "saved_pointer": pointer,
        "grad_preactivation_pointer": pointer,
        "partial_pointer": "*fp32",
    }
    constants = {
        "ROWS": GRADIENT_ROWS,
        "COLUMNS": GRADIENT_COLUMNS,
        "STEPS": GRADIENT_STEPS,
        "ALIGNMENT": alignment(dtype),
        "ALIGNED": aligned,
    }
    return Variant("shared.triton_activation_kernels.gradient_kernel", types, constants)


def activation_backward(grad: Tensor, saved: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The gradient by the pre-activation, with padded rows, and the column sums of each block of
    rows. Added in the order of the blocks, these are the same in every run."""
    rows, columns = grad.shape
    padded_columns = padded(columns, grad.dtype)
    row_blocks = cdiv(rows, GRADIENT_ROWS * GRADIENT_STEPS)
    grad_preactivation = grad.new_empty(rows, padded_columns)
    partials = grad.new_empty(row_blocks, columns, dtype=torch.float32)
    device = triton_packed.gpu_of(grad)
    key = _key(grad, saved, activation)
    packed = _packed.find(key)
    if packed is not None:
        packed.run(grad, saved, grad_preactivation, partials)
        return grad_preactivation, partials
    if grad.numel() == 0:
        return grad_preactivation, partials
    column_blocks = cdiv(columns, GRADIENT_COLUMNS)
    arguments = {
        "grad_pointer": grad,
        "saved_pointer": saved,
        "grad_preactivation_pointer": grad_preactivation,
        "partial_pointer": partials,
        "rows": rows,
        "columns": columns,
        "padded_columns": padded_columns,
        **strides_of(grad=grad, saved=saved),
        "activation": ACTIVATIONS[activation],
    }
    chosen = variant(grad.dtype, is_aligned(grad) and is_aligned(saved))
    planned = PlannedLaunch(chosen, row_blocks * column_blocks, arguments)
    with device_of(grad):
        planned.run()
    if device is not None:
        _packed.add(key, device, planned, *partials.shape)
    return grad_preactivation, partials


def packed(grad: Tensor, saved: Tensor, activation: str) -> Packed | None:
    """The launch of :func:`activation_backward`, if an earlier one was packed. Its sizes are the
    partial sums'."""
    return _packed.find(_key(grad, saved, activation))


def _key(grad: Tensor, saved: Tensor, activation: str) -> Hashable:
    layouts = triton_packed.layout(grad), triton_packed.layout(saved)
    return triton_packed.gpu_of(grad), *layouts, grad.dtype, activation


@cache
def _sum_variant(dtype: torch.dtype) -> Variant:
    types = {"partial_pointer": "*fp32", "sum_pointer": f"*{TYPE_NAMES[dtype]}"}
    constants = {"BLOCKS": ADDED_BLOCKS, "COLUMNS": ADDED_COLUMNS}
    return Variant("shared.triton_activation_kernels.add_blocks_kernel", types, constants)


def add_blocks(partials: Tensor, dtype: torch.dtype) -> Tensor:
    """The sums over the blocks of rows of :func:`activation_backward`'s second result."""
    blocks, columns = partials.shape
    sums = partials.new_empty(columns, dtype=dtype)
    found = packed_sums(partials, dtype)
    if found is not None:
        found.run(partials, sums)
        return sums
    arguments = {
        "partial_pointer": partials,
        "sum_pointer": sums,
        "blocks": blocks,
        "columns": columns,
    }
    planned = PlannedLaunch(_sum_variant(dtype), cdiv(columns, ADDED_COLUMNS), arguments)
    with device_of(partials):
        planned.run()
    device = triton_packed.gpu_of(partials)
    if device is not None:
        _packed_sums.add((device, partials.shape, dtype), device, planned)
    return sums


def packed_sums(partials: Tensor, dtype: torch.dtype) -> Packed | None:
    """The launch of :func:`add_blocks`, if an earlier one was packed."""
    return _packed_sums.find((triton_packed.gpu_of(partials), partials.shape, dtype))
