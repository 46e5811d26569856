# mypy: allow-untyped-defs
"""Sparsity penalties on the GPU: sums over blocks of rows, then over blocks, in a fixed order."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import round_to

INTEGERS = [
    "rows",
    "columns",
    "row_stride",
    "row_blocks",
    "column_blocks",
    "count",
]
POINTERS = [
    "code_pointer",
    "partial_pointer",
    "divergence_pointer",
    "slope_pointer",
    "factor_pointer",
    "output_pointer",
]


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def column_sums_kernel(
    code_pointer,  # [rows, columns]
    partial_pointer,  # float32 [row_blocks, columns]
    rows: tl.int64,
    columns: tl.int64,
    row_stride: tl.int64,
    column_blocks: tl.int64,
    ABSOLUTE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    """The sums of a block's columns, or of their absolute values."""
    program = tl.program_id(0).to(tl.int64)
    row_block = program // column_blocks
    column = (program - row_block * column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros((STEP, COLUMNS), tl.float32)
    for start in tl.static_range(0, ROWS, STEP):
        row = row_block * ROWS + start + tl.arange(0, STEP)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        pointers = code_pointer + row[:, None] * row_stride + column[None, :]
        values = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        sums += tl.abs(values) if ABSOLUTE else values
    tl.store(partial_pointer + row_block * columns + column, tl.sum(sums, 0), mask=column < columns)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def divergence_kernel(
    partial_pointer,  # float32 [row_blocks, columns]
    divergence_pointer,  # float32 [columns]
    slope_pointer,  # float32 [columns]
    rows: tl.int64,
    columns: tl.int64,
    row_blocks: tl.int64,
    target: tl.float32,
    EPSILON: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """KL(target, mean) of each column, and its derivative by an element, the same for all."""
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < columns
    sums = tl.zeros((COLUMNS,), tl.float32)
    block = row_blocks * 0
    while block < row_blocks:
        sums += tl.load(partial_pointer + block * columns + column, mask=mask, other=0.0)
        block += 1
    mean = sums / rows.to(tl.float32)
    mean = tl.where(mean < EPSILON, EPSILON, mean)  # NaN stays NaN
    mean = tl.where(mean > 1.0 - EPSILON, 1.0 - EPSILON, mean)
    other = 1.0 - target
    divergence = target * tl.log(target / mean) + other * tl.log(other / (1.0 - mean))
    slope = (other / (1.0 - mean) - target / mean) / rows.to(tl.float32)
    tl.store(divergence_pointer + column, divergence, mask=mask)
    tl.store(slope_pointer + column, slope, mask=mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def scaled_sign_kernel(
    code_pointer,  # [count]
    factor_pointer,  # [1], of the code's type
    output_pointer,  # [count]
    count: tl.int64,
    ELEMENTS: tl.constexpr,
):
    """factor * sign(code)."""
    index = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    mask = index < count
    values = tl.load(code_pointer + index, mask=mask, other=0.0)
    factor = tl.load(factor_pointer).to(tl.float32)
    signed = tl.where(values > 0.0, factor, tl.where(values < 0.0, -factor, 0.0))
    tl.store(output_pointer + index, round_to(signed, output_pointer.dtype.element_ty), mask=mask)
