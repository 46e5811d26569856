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
    interleave,
    load_seed,
    normal_pair,
    philox,
    round_to,
    seed_arguments,
    uniform_bits,
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
def _four_uniforms(seed, column_block, row):
    word_0, word_1, word_2, word_3 = philox(seed, column_block, row, 0)
    return uniform_bits(word_0), uniform_bits(word_1), uniform_bits(word_2), uniform_bits(word_3)


@triton.jit
def _four_normals(seed, column_block, row):
    word_0, word_1, word_2, word_3 = philox(seed, column_block, row, 0)
    normal_0, normal_1 = normal_pair(word_0, word_1)
    normal_2, normal_3 = normal_pair(word_2, word_3)
    return normal_0, normal_1, normal_2, normal_3


@triton.jit
def _noise(four: tl.constexpr, seed, row, unit, WIDTH: tl.constexpr):
    """The units' noise [UNITS, WIDTH], from one call of `four` for each four columns."""
    if WIDTH == 8:
        # Joined last, so that a thread holds its whole unit and nothing crosses shared memory.
        first_0, first_1, first_2, first_3 = four(seed, 2 * unit, row)
        second_0, second_1, second_2, second_3 = four(seed, 2 * unit + 1, row)
        noise = interleave(
            tl.join(first_0, second_0),
            tl.join(first_1, second_1),
            tl.join(first_2, second_2),
            tl.join(first_3, second_3),
        )
    else:
        noise_0, noise_1, noise_2, noise_3 = four(seed, unit[:, None], row[:, None])
        noise = interleave(noise_0, noise_1, noise_2, noise_3)
    return noise


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
    first = tl.program_id(0).to(tl.int64) * UNITS
    first_row = first // units_per_row
    # Only a program's first unit needs a 64-bit division; the others are counted from it.
    index = tl.arange(0, UNITS)
    local = (first - first_row * units_per_row).to(tl.uint32) + index.to(tl.uint32)
    local_row = local // units_per_row.to(tl.uint32)
    unit = local - local_row * units_per_row.to(tl.uint32)
    unit_row = first_row + local_row.to(tl.int64)
    row = unit_row[:, None]
    column = unit.to(tl.int64)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    mask = (first + index < unit_count)[:, None]
    if ALIGNED:
        x_pointers = tl.multiple_of(x_pointer + row * x_row_stride + column, [1, 16])
        output_pointers = tl.multiple_of(output_pointer + row * columns + column, [1, 16])
    else:
        mask = mask & (column < columns)
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
    bits = _noise(_four_uniforms, key, row + row_offset, unit, WIDTH)
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
    normals = _noise(_four_normals, key, row + row_offset, unit, WIDTH)
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
