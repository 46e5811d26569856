# mypy: allow-untyped-defs
"""The gradient at a pre-activation on the GPU, and in the same pass its sums over the rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast.ops.shared.triton import (
    ACTIVATIONS,
    TYPE_NAMES,
    Variant,
    activation_gradient,
    device_of,
    round_to,
)
from aefast.ops.shared.triton_gemm import is_aligned, padded, unit


@triton.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "padded_columns",
        "grad_row_stride",
        "grad_column_stride",
        "saved_row_stride",
        "saved_column_stride",
        "activation",
    ],
    do_not_specialize_on_alignment=[
        "grad_pointer",
        "saved_pointer",
        "grad_preactivation_pointer",
        "partial_pointer",
    ],
)
def gradient_kernel(
    grad_pointer,  # [rows, columns], any strides, 0 among them
    saved_pointer,  # [rows, columns], any strides
    grad_preactivation_pointer,  # [rows, padded_columns], the padding written as 0
    partial_pointer,  # [row blocks, columns] float32: each block's share of the bias gradient
    rows: tl.int32,
    columns: tl.int32,
    padded_columns: tl.int32,
    grad_row_stride: tl.int64,
    grad_column_stride: tl.int64,
    saved_row_stride: tl.int64,
    saved_column_stride: tl.int64,
    activation: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
    ALIGNED: tl.constexpr,  # both inputs can be read 16 bytes at a time
):
    """The gradient at the pre-activation, and its column sums over STEPS * ROWS rows."""
    column_blocks = tl.cdiv(padded_columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        wide_row = row.to(tl.int64)[:, None]
        wide_column = column.to(tl.int64)[None, :]
        grad_pointers = grad_pointer + wide_row * grad_row_stride
        saved_pointers = saved_pointer + wide_row * saved_row_stride
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        if ALIGNED:
            grad_pointers = tl.multiple_of(grad_pointers + wide_column, [1, 16])
            saved_pointers = tl.multiple_of(saved_pointers + wide_column, [1, 16])
            mask = tl.max_constancy(mask, [1, UNIT])
        else:
            grad_pointers += wide_column * grad_column_stride
            saved_pointers += wide_column * saved_column_stride
        grad = tl.load(grad_pointers, mask=mask, other=0.0).to(tl.float32)
        saved = tl.load(saved_pointers, mask=mask, other=0.0).to(tl.float32)
        grad = activation_gradient(grad, saved, activation)
        total += grad
        pointers = grad_preactivation_pointer + wide_row * padded_columns + wide_column
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        tl.store(
            tl.multiple_of(pointers, [1, 16]),
            round_to(grad, grad_preactivation_pointer.dtype.element_ty),
            mask=tl.max_constancy(mask, [1, UNIT]),
        )
    partial = partial_pointer + row_block.to(tl.int64) * columns + column
    tl.store(partial, tl.sum(total, axis=0), mask=column < columns)


GRADIENT_ROWS, GRADIENT_COLUMNS, GRADIENT_STEPS = 16, 128, 8


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
        "UNIT": unit(dtype),
        "ALIGNED": aligned,
    }
    return Variant(gradient_kernel, types, constants)


def activation_backward(grad: Tensor, saved: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The gradient at the pre-activation, its rows filled up with zeros, and each row block's
    column sums: added in the order of the blocks they are the same in every run."""
    rows, columns = grad.shape
    padded_columns = padded(columns, grad.dtype)
    row_blocks = triton.cdiv(rows, GRADIENT_ROWS * GRADIENT_STEPS)
    column_blocks = triton.cdiv(columns, GRADIENT_COLUMNS)
    grad_preactivation = grad.new_empty(rows, padded_columns)
    partials = grad.new_empty(row_blocks, columns, dtype=torch.float32)
    if grad.numel() > 0:
        chosen = variant(grad.dtype, is_aligned(grad) and is_aligned(saved))
        with device_of(grad):
            chosen.launch(
                row_blocks * column_blocks,
                grad,
                saved,
                grad_preactivation,
                partials,
                rows,
                columns,
                padded_columns,
                *grad.stride(),
                *saved.stride(),
                ACTIVATIONS[activation],
            )
    return grad_preactivation, partials
