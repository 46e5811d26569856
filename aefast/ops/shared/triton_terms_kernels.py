# mypy: allow-untyped-defs
"""Splits float32 matrices on the GPU into bfloat16 terms."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import locate_units, round_to


@triton.jit
def next_term(x):
    """The bfloat16 number next to float32 x, and what is left of x."""
    # Rounding leaves the smallest remainder. But it rounds the largest float32 to infinity, so
    # these are truncated.
    truncated = (x.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
    rounded = round_to(x, tl.bfloat16).to(tl.float32)
    value = tl.where(tl.abs(x) < 3.3e38, rounded, truncated)
    # An infinity or NaN is in the first term alone; inf - inf would add NaN.
    remainder = tl.where(tl.abs(x) < float("inf"), x - value, 0.0)
    return round_to(value, tl.bfloat16), remainder


@triton.jit(
    do_not_specialize=[
        *("source_row_stride", "source_column_stride", "rows", "columns"),
        *("term_rows", "unit_count", "units_per_row"),
    ],
    do_not_specialize_on_alignment=["source_pointer", "terms_pointer", "count_pointer"],
)
def split_kernel(
    source_pointer,  # [rows, columns]
    terms_pointer,  # [TERMS, term_rows, columns padded to whole units], bfloat16
    count_pointer,  # [1], 1 at first: TERMS if any term past the first is not 0. Only if COUNTS
    source_row_stride: tl.int64,
    source_column_stride: tl.int64,
    rows: tl.int64,
    columns: tl.int64,
    term_rows: tl.int64,  # at least rows
    unit_count: tl.int64,  # term_rows * units_per_row
    units_per_row: tl.int32,
    TERMS: tl.constexpr,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,  # elements a unit
    ALIGNED: tl.constexpr,  # a unit is read 16 bytes at a time
    COUNTS: tl.constexpr,
):
    """Split float32 into a sum of bfloat16 terms, the largest first; zeros in the padding."""
    row, _, column, mask = locate_units(unit_count, units_per_row, columns, UNITS, WIDTH, ALIGNED)
    wide_row = row[:, None]
    if ALIGNED:
        source = tl.multiple_of(source_pointer + wide_row * source_row_stride + column, [1, 16])
    else:
        source = source_pointer + wide_row * source_row_stride + column * source_column_stride
    remainder = tl.load(source, mask=mask & (wide_row < rows), other=0.0)
    stored = (wide_row < term_rows) & (column >= 0)
    is_inexact = tl.zeros((UNITS, WIDTH), tl.int32)
    for term in tl.static_range(TERMS):
        value, remainder = next_term(remainder)
        offset = (term * term_rows + wide_row) * units_per_row * WIDTH + column
        pointers = tl.multiple_of(terms_pointer + offset, [1, 16])
        tl.store(pointers, value, mask=tl.max_constancy(stored, [1, WIDTH]))
        if term == 0:
            is_inexact = (remainder != 0.0).to(tl.int32)
    if COUNTS:
        count = tl.max(tl.max(is_inexact, 1), 0) * (TERMS - 1) + 1
        tl.atomic_max(count_pointer, count, mask=count > 1)
