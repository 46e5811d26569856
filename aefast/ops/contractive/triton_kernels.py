# mypy: allow-untyped-defs
"""GPU kernels for the contractive penalty of one layer, from its slopes, and for its gradient."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import (
    LEAKY_RELU,
    RELU,
    activation_curvature,
    activation_gradient,
    round_to,
    store_tile,
)

# The largest float32. A scale is at most this, so that it is finite for an infinite weight, too.
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit(
    do_not_specialize=["weight_row_stride", "weight_column_stride", "columns"],
    do_not_specialize_on_alignment=["weight_pointer", "squares_pointer", "scales_pointer"],
)
def scale_kernel(
    weight_pointer,  # [rows, columns] float32
    squares_pointer,  # [rows] float32, the rows' squared lengths
    scales_pointer,  # [rows] float32
    weight_row_stride: tl.int64,
    weight_column_stride: tl.int64,
    columns: tl.int32,
    COLUMNS: tl.constexpr,
):
    """Scale rows whose squared length overflows.

    The scale is 1 if the square is finite. Otherwise it is max |w|, and the square becomes that of
    the row divided by its scale. Only such rows' weights are read.
    """
    row = tl.program_id(0)
    scale = tl.full((), 1.0, tl.float32)
    if tl.load(squares_pointer + row) == float("inf"):
        weights = weight_pointer + row.to(tl.int64) * weight_row_stride
        largest = tl.zeros((COLUMNS,), dtype=tl.float32)
        for start in range(0, columns, COLUMNS):
            column = start + tl.arange(0, COLUMNS).to(tl.int64)
            weight = tl.load(
                weights + column * weight_column_stride, mask=column < columns, other=0.0
            )
            largest = tl.maximum(largest, tl.abs(weight))
        scale = tl.minimum(tl.max(largest, axis=0), LARGEST)
        total = tl.zeros((COLUMNS,), dtype=tl.float32)
        for start in range(0, columns, COLUMNS):
            column = start + tl.arange(0, COLUMNS).to(tl.int64)
            weight = tl.load(
                weights + column * weight_column_stride, mask=column < columns, other=0.0
            )
            total += (weight / scale) * (weight / scale)
        tl.store(squares_pointer + row, tl.sum(total, axis=0))
    tl.store(scales_pointer + row, scale)


@triton.jit(
    do_not_specialize=["rows", "columns", "saved_row_stride", "activation"],
    do_not_specialize_on_alignment=[
        "saved_pointer",
        "squares_pointer",
        "scales_pointer",
        "penalty_pointer",
    ],
)
def contract_kernel(
    saved_pointer,  # [rows, columns padded to whole units]
    squares_pointer,  # [columns] float32
    scales_pointer,  # [columns] float32
    penalty_pointer,  # [rows] float32
    saved_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    activation: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes
):
    """The penalty sum_j (slope_j scale_j)^2 square_j of ROWS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        saved = _load_rows(saved_pointer, saved_row_stride, row, column, rows, columns, ALIGNMENT)
        squares = tl.load(squares_pointer + column, mask=column < columns, other=0.0)
        scales = tl.load(scales_pointer + column, mask=column < columns, other=1.0)
        slope = activation_gradient(tl.full(saved.shape, 1.0, tl.float32), saved, activation)
        slope *= scales[None, :]
        total += slope * slope * squares[None, :]
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
        "squares_pointer",
        "scales_pointer",
        "grad_preactivation_pointer",
        "partial_pointer",
    ],
)
def slope_backward_kernel(
    saved_pointer,  # [rows, columns padded to whole units]
    grad_code_pointer,  # [rows, columns padded], read if has_code
    grad_slope_pointer,  # [rows, columns padded], read if has_slope
    grad_penalty_pointer,  # [rows] float32, read if not has_slope
    squares_pointer,  # [columns] float32, likewise
    scales_pointer,  # [columns] float32, likewise
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
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes
):
    """The gradient by the pre-activation, grad_code slope + grad_slope curvature.

    If has_slope is 0, grad_slope is computed from the penalty's gradient: 2 grad_penalty slope
    scale^2 square. A program also adds up, over STEPS * ROWS rows, the gradients by the bias and,
    if has_slope is 0, by the row lengths: grad_penalty slope^2 scale.
    """
    padded_columns = tl.cdiv(columns, ALIGNMENT) * ALIGNMENT
    column_blocks = tl.cdiv(padded_columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    is_read = (column < columns) & (has_slope == 0)
    squares = tl.load(squares_pointer + column, mask=is_read, other=0.0)
    scales = tl.load(scales_pointer + column, mask=is_read, other=1.0)
    bias_total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    lengths_total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        saved = _load_rows(saved_pointer, saved_row_stride, row, column, rows, columns, ALIGNMENT)
        slope = activation_gradient(tl.full(saved.shape, 1.0, tl.float32), saved, activation)
        curvature = activation_curvature(saved, activation)
        grad = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        if has_slope != 0:
            grad = curvature * _load_rows(
                grad_slope_pointer, grad_slope_row_stride, row, column, rows, columns, ALIGNMENT
            )
        else:
            penalty = tl.load(grad_penalty_pointer + row, mask=row < rows, other=0.0)[:, None]
            scaled_slope = slope * scales[None, :]
            grad = 2.0 * penalty * squares[None, :] * scaled_slope * (curvature * scales[None, :])
            lengths_total += penalty * scaled_slope * slope
        if activation <= LEAKY_RELU:  # their curvature is 0: times an infinite length it is NaN
            grad = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        if has_code != 0:
            code = _load_rows(
                grad_code_pointer, grad_code_row_stride, row, column, rows, columns, ALIGNMENT
            )
            # ReLU's is 0 where the slope is, even of an infinite gradient.
            grad += tl.where((activation == RELU) & (slope == 0.0), 0.0, slope * code)
        bias_total += tl.where((row < rows)[:, None], grad, 0.0)
        rounded = round_to(grad, grad_preactivation_pointer.dtype.element_ty)
        store_tile(
            grad_preactivation_pointer, rounded, row, column, rows, padded_columns, ALIGNMENT
        )
    partial = partial_pointer + row_block.to(tl.int64) * 2 * columns + column
    tl.store(partial, tl.sum(bias_total, axis=0), mask=column < columns)
    tl.store(partial + columns, tl.sum(lengths_total, axis=0), mask=column < columns)


@triton.jit
def _load_rows(pointer, row_stride, row, column, rows, columns, ALIGNMENT: tl.constexpr):
    """A tile, as float32, of a matrix whose rows are padded to whole units."""
    pointers = pointer + row.to(tl.int64)[:, None] * row_stride + column[None, :]
    mask = (row < rows)[:, None] & (column < tl.cdiv(columns, ALIGNMENT) * ALIGNMENT)[None, :]
    pointers = tl.multiple_of(pointers, [1, 16])
    return tl.load(pointers, mask=tl.max_constancy(mask, [1, ALIGNMENT]), other=0.0).to(tl.float32)
