# mypy: allow-untyped-defs
"""GPU kernels for noise injection, in units of adjacent columns: see triton.py."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import (
    draw_units,
    four_normals,
    four_uniforms,
    load_seed,
    locate_units,
    round_to,
)

# Nothing is specialized by value: one cubin serves every shape, stride and seed.
INTEGERS = [
    "seed",
    "seed_address",
    "row_offset",
    "step",
    "unit_count",
    "units_per_row",
    "columns",
    "x_row_stride",
    "x_column_stride",
]
POINTERS = ["x_pointer", "output_pointer"]


@triton.jit
def _locate(
    x_pointer,
    output_pointer,
    unit_count,
    units_per_row,
    columns,
    x_row_stride,
    x_column_stride,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The rows and pointers of this program's units.

    Returns each unit's row and its number in that row, [UNITS]; the pointers into x and into the
    output, and their mask, [UNITS, WIDTH].
    """
    unit_row, unit, column, mask = locate_units(
        unit_count, units_per_row, columns, UNITS, WIDTH, ALIGNED
    )
    row = unit_row[:, None]
    if ALIGNED:
        x_pointers = tl.multiple_of(x_pointer + row * x_row_stride + column, [1, 16])
        output_pointers = tl.multiple_of(output_pointer + row * columns + column, [1, 16])
    else:
        x_pointers = x_pointer + row * x_row_stride + column * x_column_stride
        output_pointers = output_pointer + row * columns + column
    return unit_row, unit, x_pointers, output_pointers, mask


@triton.jit(
    do_not_specialize=[*INTEGERS, "low_threshold", "high_threshold"],
    do_not_specialize_on_alignment=POINTERS,
)
def replace_kernel(
    x_pointer,  # [rows, columns], any strides
    output_pointer,  # [rows, columns], contiguous
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or the address of the seed in device memory
    row_offset: tl.int64,
    step: tl.int64,
    unit_count: tl.int64,  # rows * units_per_row
    units_per_row: tl.int32,
    columns: tl.int64,
    x_row_stride: tl.int64,
    x_column_stride: tl.int64,
    low_threshold: tl.int32,  # `low` where the uniform is under this * 2^-24,
    high_threshold: tl.int32,  # `high` where it is under this one
    low: tl.float32,
    high: tl.float32,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,  # elements a unit
    ALIGNED: tl.constexpr,  # every unit is one 16-byte access
):
    """Masking and salt-and-pepper noise."""
    row, unit, x_pointers, output_pointers, mask = _locate(
        x_pointer, output_pointer, unit_count, units_per_row, columns,
        x_row_stride, x_column_stride, UNITS, WIDTH, ALIGNED,
    )  # fmt: skip
    x = tl.load(x_pointers, mask=mask)
    key = load_seed(seed, seed_address)
    bits = draw_units(four_uniforms, key, row + row_offset, step, unit, WIDTH)
    low = round_to(tl.full((), low, tl.float32), x.dtype)
    high = round_to(tl.full((), high, tl.float32), x.dtype)
    output = tl.where(bits < low_threshold, low, tl.where(bits < high_threshold, high, x))
    tl.store(output_pointers, output, mask=mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def gaussian_kernel(
    x_pointer,  # [rows, columns], any strides
    output_pointer,  # [rows, columns], contiguous
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or the address of the seed in device memory
    row_offset: tl.int64,
    step: tl.int64,
    unit_count: tl.int64,  # rows * units_per_row
    units_per_row: tl.int32,
    columns: tl.int64,
    x_row_stride: tl.int64,
    x_column_stride: tl.int64,
    level: tl.float32,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,  # elements a unit
    ALIGNED: tl.constexpr,  # every unit is one 16-byte access
):
    """Additive Gaussian noise of standard deviation `level`."""
    row, unit, x_pointers, output_pointers, mask = _locate(
        x_pointer, output_pointer, unit_count, units_per_row, columns,
        x_row_stride, x_column_stride, UNITS, WIDTH, ALIGNED,
    )  # fmt: skip
    x = tl.load(x_pointers, mask=mask)
    key = load_seed(seed, seed_address)
    normals = draw_units(four_normals, key, row + row_offset, step, unit, WIDTH)
    output = round_to(x.to(tl.float32) + level * normals, x.dtype)
    tl.store(output_pointers, output, mask=mask)
