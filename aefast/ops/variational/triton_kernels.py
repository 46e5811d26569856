# mypy: allow-untyped-defs
"""GPU kernels for the sample and the divergence of a Gaussian code, in units: see triton.py."""

import triton
import triton.language as tl

from aefast.ops.shared.triton_device import (
    draw_units,
    exp,
    exp_remainder,
    expm1,
    four_normals,
    load_seed,
    locate_units,
    round_to,
)

# Nothing is specialized by value: one cubin serves every shape, stride and seed.
LAYOUT = [
    "sample_rows",
    "first_sample_stride",
    "first_row_stride",
    "first_column_stride",
    "log_var_sample_stride",
    "log_var_row_stride",
    "log_var_column_stride",
]


@triton.jit
def _locate_samples(row, first_row, sample_rows):
    """The sample that each row belongs to, and its number there. Rows follow ``first_row``."""
    # Only the first row takes a 64-bit division; the others are counted from it, and where a sample
    # has more rows than any program, from somewhere nearer to its end.
    first_sample = first_row // sample_rows
    start = first_row - first_sample * sample_rows
    size = tl.minimum(sample_rows, 1 << 30)
    start = tl.maximum(start - (sample_rows - size), 0)
    samples_on = (start + row - first_row).to(tl.uint32) // size.to(tl.uint32)
    sample = first_sample + samples_on.to(tl.int64)
    return sample, row - sample * sample_rows


@triton.jit
def _pointers(
    pointer,
    sample,
    row,
    column,
    sample_stride,
    row_stride,
    column_stride,
    ALIGNED: tl.constexpr,
):
    """Pointers to elements of [samples, sample_rows, columns]; ALIGNED: in whole 16 bytes."""
    start = pointer + sample * sample_stride + row * row_stride
    if ALIGNED:
        pointers = tl.multiple_of(start + column, [1, 16])
    else:
        pointers = start + column * column_stride
    return pointers


@triton.jit
def _operands(
    first_pointer, log_var_pointer, sample, row, column,
    first_sample_stride, first_row_stride, first_column_stride,
    log_var_sample_stride, log_var_row_stride, log_var_column_stride,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """Pointers to elements of the mean, or factor, and of log_var."""
    first_pointers = _pointers(
        first_pointer, sample, row, column,
        first_sample_stride, first_row_stride, first_column_stride, ALIGNED,
    )  # fmt: skip
    log_var_pointers = _pointers(
        log_var_pointer, sample, row, column,
        log_var_sample_stride, log_var_row_stride, log_var_column_stride, ALIGNED,
    )  # fmt: skip
    return first_pointers, log_var_pointers


@triton.jit(
    do_not_specialize=[
        *("seed", "seed_address", "row_offset", "step"),
        *("unit_count", "units_per_row", "columns"),
        *LAYOUT,
    ],
    do_not_specialize_on_alignment=["first_pointer", "log_var_pointer", "output_pointer"],
)
def scaled_noise_kernel(
    first_pointer,  # [samples, rows, columns], any strides: the mean, or a factor
    log_var_pointer,  # [samples, rows, columns], any strides
    output_pointer,  # [samples * rows, columns], contiguous
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or the address of the seed in device memory
    row_offset: tl.int64,
    step: tl.int64,
    unit_count: tl.int64,  # samples * rows * units_per_row
    units_per_row: tl.int32,
    columns: tl.int64,
    sample_rows: tl.int64,  # rows
    first_sample_stride: tl.int64,
    first_row_stride: tl.int64,
    first_column_stride: tl.int64,
    log_var_sample_stride: tl.int64,
    log_var_row_stride: tl.int64,
    log_var_column_stride: tl.int64,
    scale: tl.float32,
    MULTIPLY: tl.constexpr,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,  # elements a unit
    ALIGNED: tl.constexpr,  # every unit is one 16-byte access
):
    """mean + e^(log_var / 2) noise, or factor scale e^(log_var / 2) noise."""
    unit_row, unit, column, mask = locate_units(
        unit_count, units_per_row, columns, UNITS, WIDTH, ALIGNED
    )
    first_row = tl.program_id(0).to(tl.int64) * UNITS // units_per_row
    sample, row = _locate_samples(unit_row[:, None], first_row, sample_rows)
    first_pointers, log_var_pointers = _operands(
        first_pointer, log_var_pointer, sample, row, column,
        first_sample_stride, first_row_stride, first_column_stride,
        log_var_sample_stride, log_var_row_stride, log_var_column_stride, ALIGNED,
    )  # fmt: skip
    first = tl.load(first_pointers, mask=mask)
    log_var = tl.load(log_var_pointers, mask=mask).to(tl.float32)
    key = load_seed(seed, seed_address)
    noise = draw_units(four_normals, key, unit_row + row_offset, step, unit, WIDTH)
    scaled = scale * exp(0.5 * log_var) * noise
    wide = first.to(tl.float32)
    output = wide * scaled if MULTIPLY else wide + scaled
    output_pointers = _pointers(
        output_pointer, 0, unit_row[:, None], column, 0, columns, 1, ALIGNED
    )
    tl.store(output_pointers, round_to(output, first.dtype), mask=mask)


@triton.jit(
    do_not_specialize=["rows", "columns", *LAYOUT],
    do_not_specialize_on_alignment=["first_pointer", "log_var_pointer", "divergence_pointer"],
)
def gaussian_kl_kernel(
    first_pointer,  # [samples, sample_rows, columns], any strides: the mean
    log_var_pointer,  # [samples, sample_rows, columns], any strides
    divergence_pointer,  # [rows]
    rows: tl.int64,  # samples * sample_rows
    columns: tl.int32,
    sample_rows: tl.int64,
    first_sample_stride: tl.int64,
    first_row_stride: tl.int64,
    first_column_stride: tl.int64,
    log_var_sample_stride: tl.int64,
    log_var_row_stride: tl.int64,
    log_var_column_stride: tl.int64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ALIGNMENT: tl.constexpr,  # elements in 16 bytes where every access is as wide, else 1
):
    """1/2 sum_j (mean_j^2 + e^log_var_j - 1 - log_var_j) of ROWS rows."""
    first_row = tl.program_id(0).to(tl.int64) * ROWS
    row = first_row + tl.arange(0, ROWS)
    sample, sample_row = _locate_samples(row[:, None], first_row, sample_rows)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        mask = tl.max_constancy((row < rows)[:, None] & (column < columns), [1, ALIGNMENT])
        mean_pointers, log_var_pointers = _operands(
            first_pointer, log_var_pointer, sample, sample_row, column,
            first_sample_stride, first_row_stride, first_column_stride,
            log_var_sample_stride, log_var_row_stride, log_var_column_stride, ALIGNMENT > 1,
        )  # fmt: skip
        mean = tl.load(mean_pointers, mask=mask, other=0.0).to(tl.float32)
        log_var = tl.load(log_var_pointers, mask=mask, other=0.0).to(tl.float32)
        total += mean * mean + exp_remainder(log_var)
    divergence = round_to(0.5 * tl.sum(total, axis=1), divergence_pointer.dtype.element_ty)
    tl.store(divergence_pointer + row, divergence, mask=row < rows)


@triton.jit(
    do_not_specialize=["unit_count", "units_per_row", "columns", *LAYOUT],
    do_not_specialize_on_alignment=[
        *("grad_pointer", "first_pointer", "log_var_pointer"),
        *("grad_mean_pointer", "grad_log_var_pointer"),
    ],
)
def gaussian_kl_backward_kernel(
    grad_pointer,  # [samples * rows]
    first_pointer,  # [samples, rows, columns], any strides: the mean
    log_var_pointer,  # [samples, rows, columns], any strides
    grad_mean_pointer,  # [samples * rows, columns], contiguous
    grad_log_var_pointer,  # [samples * rows, columns], contiguous
    unit_count: tl.int64,  # samples * rows * units_per_row
    units_per_row: tl.int32,
    columns: tl.int64,
    sample_rows: tl.int64,  # rows
    first_sample_stride: tl.int64,
    first_row_stride: tl.int64,
    first_column_stride: tl.int64,
    log_var_sample_stride: tl.int64,
    log_var_row_stride: tl.int64,
    log_var_column_stride: tl.int64,
    UNITS: tl.constexpr,
    WIDTH: tl.constexpr,  # elements a unit
    ALIGNED: tl.constexpr,  # every unit is one 16-byte access
):
    """grad mean, and grad (e^log_var - 1) / 2."""
    unit_row, _, column, mask = locate_units(
        unit_count, units_per_row, columns, UNITS, WIDTH, ALIGNED
    )
    first_row = tl.program_id(0).to(tl.int64) * UNITS // units_per_row
    sample, row = _locate_samples(unit_row[:, None], first_row, sample_rows)
    mean_pointers, log_var_pointers = _operands(
        first_pointer, log_var_pointer, sample, row, column,
        first_sample_stride, first_row_stride, first_column_stride,
        log_var_sample_stride, log_var_row_stride, log_var_column_stride, ALIGNED,
    )  # fmt: skip
    in_grad = unit_row < unit_count // units_per_row
    grad = tl.load(grad_pointer + unit_row, mask=in_grad).to(tl.float32)[:, None]
    mean = tl.load(mean_pointers, mask=mask)
    log_var = tl.load(log_var_pointers, mask=mask).to(tl.float32)
    grad_mean = round_to(grad * mean.to(tl.float32), mean.dtype)
    grad_log_var = round_to(grad * (0.5 * expm1(log_var)), mean.dtype)
    row = unit_row[:, None]
    output = _pointers(grad_mean_pointer, 0, row, column, 0, columns, 1, ALIGNED)
    tl.store(output, grad_mean, mask=mask)
    output = _pointers(grad_log_var_pointer, 0, row, column, 0, columns, 1, ALIGNED)
    tl.store(output, grad_log_var, mask=mask)
