"""The gradient by a layer's pre-activation on the GPU, and its sums over the rows, in one pass."""

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
from aefast.ops.shared.triton_packed import PackedLaunches

GRADIENT_ROWS, GRADIENT_COLUMNS, GRADIENT_STEPS = 16, 128, 8

_packed = PackedLaunches()


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
    key = device, triton_packed.layout(grad), triton_packed.layout(saved), grad.dtype, activation
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
        _packed.add(key, device, planned)
    return grad_preactivation, partials
