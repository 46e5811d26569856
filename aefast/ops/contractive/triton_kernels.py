# mypy: allow-untyped-defs
"""The contractive penalty of rows whose slopes are known, and its gradient, on the GPU."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import (
    LEAKY_RELU,
    activation_curvature,
    activation_gradient,
    round_to,
)


@triton.jit(
    do_not_specialize=["rows", "columns", "saved_row_stride", "activation"],
    do_not_specialize_on_alignment=["saved_pointer", "lengths_pointer", "penalty_pointer"],
)
def contract_kernel(
    saved_pointer,  # [rows, columns padded to whole units]
    lengths_pointer,  # [columns] float32
    penalty_pointer,  # [rows] float32
    saved_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    activation: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
):
    """sum_j slope_j^2 lengths_j of ROWS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        saved = _load_rows(saved_pointer, saved_row_stride, row, column, rows, columns, UNIT)
        lengths = tl.load(lengths_pointer + column, mask=column < columns, other=0.0)
        slope = activation_gradient(tl.full(saved.shape, 1.0, tl.float32), saved, activation)
        total += slope * slope * lengths[None, :]
    tl.store(penalty_pointer + row, tl.sum(total, axis=1), mask=row < rows)


@triton.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "saved_row_stride",
        "grad_code_row_stride",
        "grad_slope_row_stride",
        "activation",
        "has_code",
        "has_slope",
    ],
    do_not_specialize_on_alignment=[
        "saved_pointer",
        "grad_code_pointer",
        "grad_slope_pointer",
        "grad_penalty_pointer",
        "lengths_pointer",
        "grad_preactivation_pointer",
        "partial_pointer",
    ],
)
def slope_backward_kernel(
    saved_pointer,  # [rows, columns padded to whole units]
    grad_code_pointer,  # [rows, columns padded], read if has_code
    grad_slope_pointer,  # [rows, columns padded], read if has_slope
    grad_penalty_pointer,  # [rows] float32, read if not has_slope
    lengths_pointer,  # [columns] float32, likewise
    grad_preactivation_pointer,  # [rows, columns padded]
    partial_pointer,  # [row blocks, 2, columns] float32: sums for the bias, and for the lengths
    saved_row_stride: tl.int64,
    grad_code_row_stride: tl.int64,
    grad_slope_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    activation: tl.int32,
    has_code: tl.int32,
    has_slope: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
):
    """grad_code slope + grad_slope curvature, and column sums over STEPS * ROWS rows.

    Without a grad_slope it is the penalty's, 2 grad_penalty slope lengths.
    """
    padded_columns = tl.cdiv(columns, UNIT) * UNIT
    column_blocks = tl.cdiv(padded_columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    lengths = tl.load(
        lengths_pointer + column, mask=(column < columns) & (has_slope == 0), other=0.0
    )
    bias_total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    lengths_total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        saved = _load_rows(saved_pointer, saved_row_stride, row, column, rows, columns, UNIT)
        slope = activation_gradient(tl.full(saved.shape, 1.0, tl.float32), saved, activation)
        curvature = activation_curvature(saved, activation)
        grad = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        if has_slope != 0:
            grad = curvature * _load_rows(
                grad_slope_pointer, grad_slope_row_stride, row, column, rows, columns, UNIT
            )
        else:
            penalty = tl.load(grad_penalty_pointer + row, mask=row < rows, other=0.0)[:, None]
            grad = 2.0 * penalty * lengths[None, :] * slope * curvature
            lengths_total += penalty * slope * slope
        if activation <= LEAKY_RELU:  # without curvature: a length of infinity would leave NaN
            grad = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        if has_code != 0:
            grad += slope * _load_rows(
                grad_code_pointer, grad_code_row_stride, row, column, rows, columns, UNIT
            )
        bias_total += tl.where((row < rows)[:, None], grad, 0.0)
        pointers = grad_preactivation_pointer + row.to(tl.int64)[:, None] * padded_columns
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        tl.store(
            tl.multiple_of(pointers + column[None, :], [1, 16]),
            round_to(grad, grad_preactivation_pointer.dtype.element_ty),
            mask=tl.max_constancy(mask, [1, UNIT]),
        )
    partial = partial_pointer + row_block.to(tl.int64) * 2 * columns + column
    tl.store(partial, tl.sum(bias_total, axis=0), mask=column < columns)
    tl.store(partial + columns, tl.sum(lengths_total, axis=0), mask=column < columns)


@triton.jit
def _load_rows(pointer, row_stride, row, column, rows, columns, UNIT: tl.constexpr):
    """A float32 tile of a matrix whose rows are filled up to whole units."""
    pointers = pointer + row.to(tl.int64)[:, None] * row_stride + column[None, :]
    mask = (row < rows)[:, None] & (column < tl.cdiv(columns, UNIT) * UNIT)[None, :]
    pointers = tl.multiple_of(pointers, [1, 16])
    return tl.load(pointers, mask=tl.max_constancy(mask, [1, UNIT]), other=0.0).to(tl.float32)
