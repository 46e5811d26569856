# mypy: allow-untyped-defs
"""Noise injection on the GPU: one pass over the data, the noise made in registers.

The tensor is cut into units of adjacent columns of one row, 16 bytes wide where its layout allows,
else 4 elements. A thread takes whole units, so each Philox call serves four elements it holds and
every access to memory is as wide as a thread can make it.
"""

from collections.abc import Iterator

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast import random
from aefast.ops.shared.triton import (
    TYPE_NAMES,
    Variant,
    device_of,
    draw_units,
    four_normals,
    four_uniforms,
    load_seed,
    locate_units,
    round_to,
    seed_arguments,
)

UNITS = 512  # a program: with 4 warps, four independent accesses a thread

# Nothing is specialized by value: one binary serves every shape, stride and seed.
INTEGERS = [
    "seed",
    "seed_address",
    "row_offset",
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
    """Where this program's units lie.

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
    seed_address: tl.int64,  # 0, or where the seed stands in device memory
    row_offset: tl.int64,
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
        x_pointer,
        output_pointer,
        unit_count,
        units_per_row,
        columns,
        x_row_stride,
        x_column_stride,
        UNITS,
        WIDTH,
        ALIGNED,
    )
    x = tl.load(x_pointers, mask=mask)
    key = load_seed(seed, seed_address)
    bits = draw_units(four_uniforms, key, row + row_offset, unit, WIDTH)
    low = round_to(tl.full((), low, tl.float32), x.dtype)
    high = round_to(tl.full((), high, tl.float32), x.dtype)
    output = tl.where(bits < low_threshold, low, tl.where(bits < high_threshold, high, x))
    tl.store(output_pointers, output, mask=mask)


@triton.jit(do_not_specialize=INTEGERS, do_not_specialize_on_alignment=POINTERS)
def gaussian_kernel(
    x_pointer,  # [rows, columns], any strides
    output_pointer,  # [rows, columns], contiguous
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or where the seed stands in device memory
    row_offset: tl.int64,
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
        x_pointer,
        output_pointer,
        unit_count,
        units_per_row,
        columns,
        x_row_stride,
        x_column_stride,
        UNITS,
        WIDTH,
        ALIGNED,
    )
    x = tl.load(x_pointers, mask=mask)
    key = load_seed(seed, seed_address)
    normals = draw_units(four_normals, key, row + row_offset, unit, WIDTH)
    output = round_to(x.to(tl.float32) + level * normals, x.dtype)
    tl.store(output_pointers, output, mask=mask)


def _variant(kernel: object, dtype: torch.dtype, aligned: bool) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    width = 16 // dtype.itemsize if aligned else 4
    return Variant(
        kernel,
        {"x_pointer": pointer, "output_pointer": pointer},
        {"UNITS": UNITS, "WIDTH": width, "ALIGNED": aligned},
    )


def variants(generation: int) -> Iterator[Variant]:
    """Every binary that :func:`corrupt` can launch; the same on all generations."""
    for kernel in (replace_kernel, gaussian_kernel):
        for dtype in TYPE_NAMES:
            for aligned in (True, False):
                yield _variant(kernel, dtype, aligned)


def corrupt(
    x: Tensor,
    kind: str,
    level: float,
    low: float,
    high: float,
    seed: int | Tensor,
    row_offset: int,
) -> Tensor:
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    columns = x.shape[-1] if x.dim() else 1
    flat = x if x.dim() == 2 else x.reshape(-1, columns)
    rows = flat.shape[0]

    width = 16 // x.dtype.itemsize
    aligned = (
        (flat.stride(1) == 1 or columns == 1)
        and columns % width == 0
        and flat.stride(0) % width == 0
        and flat.data_ptr() % 16 == 0
    )
    units_per_row = columns // width if aligned else -(-columns // 4)

    arguments = (
        flat,
        output,
        *seed_arguments(seed, x.device),
        row_offset,
        rows * units_per_row,
        units_per_row,
        columns,
        flat.stride(0),
        flat.stride(1),
    )
    programs = triton.cdiv(rows * units_per_row, UNITS)
    with device_of(x):
        if kind == "gaussian":
            variant = _variant(gaussian_kernel, x.dtype, aligned)
            variant.launch(programs, *arguments, level)
        else:
            high_threshold = random.threshold(level)
            if kind == "masking":
                low_threshold, low = high_threshold, 0.0
            else:
                low_threshold = random.threshold(float(np.float32(level)) / 2)
            variant = _variant(replace_kernel, x.dtype, aligned)
            variant.launch(programs, *arguments, low_threshold, high_threshold, low, high)
    return output
