# mypy: allow-untyped-defs
"""The gradient by a layer's pre-activation on the GPU, and its sums over the rows, in one pass."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import activation_gradient, round_to


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
    grad_pointer,  # [rows, columns], any strides, also 0
    saved_pointer,  # [rows, columns], any strides
    grad_preactivation_pointer,  # [rows, padded_columns], the padding written as 0
    partial_pointer,  # [row blocks, columns] float32: each block's part of the bias gradient
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
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes
    ALIGNED: tl.constexpr,  # both inputs can be read 16 bytes at a time
):
    """The gradient by the pre-activation, and its column sums over STEPS * ROWS rows."""
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
            mask = tl.max_constancy(mask, [1, ALIGNMENT])
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
            mask=tl.max_constancy(mask, [1, ALIGNMENT]),
        )
    partial = partial_pointer + row_block.to(tl.int64) * columns + column
    tl.store(partial, tl.sum(total, axis=0), mask=column < columns)


@triton.jit(
    do_not_specialize=["blocks", "columns"],
    do_not_specialize_on_alignment=["partial_pointer", "sum_pointer"],
)
def add_blocks_kernel(
    partial_pointer,  # [blocks, columns] float32
    sum_pointer,  # [columns]
    blocks: tl.int32,
    columns: tl.int32,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sums over the blocks of rows, always in the same order."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((BLOCKS, COLUMNS), dtype=tl.float32)
    for start in range(0, blocks, BLOCKS):
        block = start + tl.arange(0, BLOCKS)
        pointers = partial_pointer + block.to(tl.int64)[:, None] * columns + column[None, :]
        mask = (block < blocks)[:, None] & (column < columns)[None, :]
        total += tl.load(pointers, mask=mask, other=0.0)
    sums = round_to(tl.sum(total, axis=0), sum_pointer.dtype.element_ty)
    tl.store(sum_pointer + column, sums, mask=column < columns)
