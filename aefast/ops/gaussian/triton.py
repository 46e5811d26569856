# mypy: allow-untyped-defs
"""A Gaussian code's sample and divergence on the GPU: one pass over the data each.

Sample and gradients are cut into units of adjacent columns of one row, as corrupt's noise is: see
``locate_units``. Inputs are read as [samples, rows, columns], so that what is expanded over samples
is not copied.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast.ops.shared.triton import (
    TYPE_NAMES,
    Variant,
    device_of,
    draw_units,
    exp,
    exp_remainder,
    expm1,
    four_normals,
    load_seed,
    locate_units,
    round_to,
    seed_arguments,
)

# A program: with 4 warps, four independent accesses a thread. An unaligned unit is several
# accesses, and four of those a thread took 254 registers.
ALIGNED_UNITS, UNALIGNED_UNITS = 512, 128

# A program of the divergence sums tiles of this many elements, of as many columns as suit.
TILE = 2048
TILE_COLUMNS = (32, 128, 512)

# Nothing is specialized by value: one binary serves every shape, stride and seed.
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
def _pointers(
    pointer,
    row,
    column,
    sample_rows,
    sample_stride,
    row_stride,
    column_stride,
    ALIGNED: tl.constexpr,
):
    """Where elements of [samples, sample_rows, columns] lie; ALIGNED: in whole 16 bytes."""
    sample = row // sample_rows
    start = pointer + sample * sample_stride + (row - sample * sample_rows) * row_stride
    if ALIGNED:
        pointers = tl.multiple_of(start + column, [1, 16])
    else:
        pointers = start + column * column_stride
    return pointers


@triton.jit(
    do_not_specialize=[
        *("seed", "seed_address", "row_offset", "unit_count", "units_per_row", "columns"),
        *LAYOUT,
    ],
    do_not_specialize_on_alignment=["first_pointer", "log_var_pointer", "output_pointer"],
)
def scaled_noise_kernel(
    first_pointer,  # [samples, rows, columns], any strides: the mean, or a factor
    log_var_pointer,  # [samples, rows, columns], any strides
    output_pointer,  # [samples * rows, columns], contiguous
    seed: tl.int64,
    seed_address: tl.int64,  # 0, or where the seed stands in device memory
    row_offset: tl.int64,
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
    row = unit_row[:, None]
    first_pointers = _pointers(
        first_pointer,
        row,
        column,
        sample_rows,
        first_sample_stride,
        first_row_stride,
        first_column_stride,
        ALIGNED,
    )
    log_var_pointers = _pointers(
        log_var_pointer,
        row,
        column,
        sample_rows,
        log_var_sample_stride,
        log_var_row_stride,
        log_var_column_stride,
        ALIGNED,
    )
    first = tl.load(first_pointers, mask=mask)
    log_var = tl.load(log_var_pointers, mask=mask).to(tl.float32)
    key = load_seed(seed, seed_address)
    noise = draw_units(four_normals, key, unit_row + row_offset, unit, WIDTH)
    scaled = scale * exp(0.5 * log_var) * noise
    wide = first.to(tl.float32)
    output = wide * scaled if MULTIPLY else wide + scaled
    output_pointers = _pointers(output_pointer, row, column, unit_count, 0, columns, 1, ALIGNED)
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
    UNIT: tl.constexpr,  # elements in 16 bytes where every access is as wide, else 1
):
    """1/2 sum_j (mean_j^2 + e^log_var_j - 1 - log_var_j) of ROWS rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = (start + tl.arange(0, COLUMNS))[None, :]
        mask = tl.max_constancy((row < rows)[:, None] & (column < columns), [1, UNIT])
        mean_pointers = _pointers(
            first_pointer,
            row[:, None],
            column,
            sample_rows,
            first_sample_stride,
            first_row_stride,
            first_column_stride,
            UNIT > 1,
        )
        log_var_pointers = _pointers(
            log_var_pointer,
            row[:, None],
            column,
            sample_rows,
            log_var_sample_stride,
            log_var_row_stride,
            log_var_column_stride,
            UNIT > 1,
        )
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
    row = unit_row[:, None]
    mean_pointers = _pointers(
        first_pointer,
        row,
        column,
        sample_rows,
        first_sample_stride,
        first_row_stride,
        first_column_stride,
        ALIGNED,
    )
    log_var_pointers = _pointers(
        log_var_pointer,
        row,
        column,
        sample_rows,
        log_var_sample_stride,
        log_var_row_stride,
        log_var_column_stride,
        ALIGNED,
    )
    in_grad = unit_row < unit_count // units_per_row
    grad = tl.load(grad_pointer + unit_row, mask=in_grad).to(tl.float32)[:, None]
    mean = tl.load(mean_pointers, mask=mask)
    log_var = tl.load(log_var_pointers, mask=mask).to(tl.float32)
    grad_mean = round_to(grad * mean.to(tl.float32), mean.dtype)
    grad_log_var = round_to(grad * (0.5 * expm1(log_var)), mean.dtype)
    output = _pointers(grad_mean_pointer, row, column, unit_count, 0, columns, 1, ALIGNED)
    tl.store(output, grad_mean, mask=mask)
    output = _pointers(grad_log_var_pointer, row, column, unit_count, 0, columns, 1, ALIGNED)
    tl.store(output, grad_log_var, mask=mask)


def _unit_constants(dtype: torch.dtype, aligned: bool) -> dict[str, int]:
    if aligned:
        return {"UNITS": ALIGNED_UNITS, "WIDTH": 16 // dtype.itemsize, "ALIGNED": True}
    return {"UNITS": UNALIGNED_UNITS, "WIDTH": 4, "ALIGNED": False}


def _variant(kernel, dtype: torch.dtype, constants: dict[str, int]) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    types = {name: pointer for name in kernel.arg_names if name.endswith("_pointer")}
    return Variant(kernel, types, constants)


def _scaled_noise_variant(dtype: torch.dtype, aligned: bool, multiply: bool) -> Variant:
    constants = {"MULTIPLY": multiply, **_unit_constants(dtype, aligned)}
    return _variant(scaled_noise_kernel, dtype, constants)


def _kl_variant(dtype: torch.dtype, aligned: bool, columns: int) -> Variant:
    tile_columns = next((width for width in TILE_COLUMNS if columns <= width), TILE_COLUMNS[-1])
    unit = 16 // dtype.itemsize if aligned else 1
    constants = {"ROWS": TILE // tile_columns, "COLUMNS": tile_columns, "UNIT": unit}
    return _variant(gaussian_kl_kernel, dtype, constants)


def _kl_backward_variant(dtype: torch.dtype, aligned: bool) -> Variant:
    return _variant(gaussian_kl_backward_kernel, dtype, _unit_constants(dtype, aligned))


def variants(generation: int) -> Iterator[Variant]:
    """Every binary that the functions below can launch; the same on all generations."""
    for dtype in TYPE_NAMES:
        for aligned in (True, False):
            for multiply in (False, True):
                yield _scaled_noise_variant(dtype, aligned, multiply)
            for columns in TILE_COLUMNS:
                yield _kl_variant(dtype, aligned, columns)
            yield _kl_backward_variant(dtype, aligned)


def reparameterize(mean: Tensor, log_var: Tensor, seed: int | Tensor, row_offset: int) -> Tensor:
    return _scaled_noise(mean, log_var, 1.0, seed, row_offset, multiply=False)


def scaled_noise(
    factor: Tensor, log_var: Tensor, scale: float, seed: int | Tensor, row_offset: int
) -> Tensor:
    return _scaled_noise(factor, log_var, scale, seed, row_offset, multiply=True)


def _scaled_noise(
    first: Tensor,
    log_var: Tensor,
    scale: float,
    seed: int | Tensor,
    row_offset: int,
    multiply: bool,
) -> Tensor:
    output = torch.empty(first.shape, dtype=first.dtype, device=first.device)
    first, log_var = _samples(first), _samples(log_var)
    aligned = _is_aligned(first) and _is_aligned(log_var)
    variant = _scaled_noise_variant(first.dtype, aligned, multiply)
    unit_count, units_per_row = _count_units(first, variant)
    with device_of(first):
        variant.launch(
            triton.cdiv(unit_count, variant.constants["UNITS"]),
            first,
            log_var,
            output,
            *seed_arguments(seed, first.device),
            row_offset,
            unit_count,
            units_per_row,
            first.shape[2],
            *_layout(first, log_var),
            scale,
        )
    return output


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    divergence = torch.empty(mean.shape[:-1], dtype=mean.dtype, device=mean.device)
    mean, log_var = _samples(mean), _samples(log_var)
    columns = mean.shape[2]
    variant = _kl_variant(mean.dtype, _is_aligned(mean) and _is_aligned(log_var), columns)
    with device_of(mean):
        variant.launch(
            triton.cdiv(divergence.numel(), variant.constants["ROWS"]),
            mean,
            log_var,
            divergence,
            divergence.numel(),
            columns,
            *_layout(mean, log_var),
        )
    return divergence


def gaussian_kl_backward(grad: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    grad_mean, grad_log_var = (
        torch.empty(mean.shape, dtype=mean.dtype, device=mean.device) for _ in range(2)
    )
    mean, log_var = _samples(mean), _samples(log_var)
    variant = _kl_backward_variant(mean.dtype, _is_aligned(mean) and _is_aligned(log_var))
    unit_count, units_per_row = _count_units(mean, variant)
    with device_of(mean):
        variant.launch(
            triton.cdiv(unit_count, variant.constants["UNITS"]),
            grad.contiguous(),
            mean,
            log_var,
            grad_mean,
            grad_log_var,
            unit_count,
            units_per_row,
            mean.shape[2],
            *_layout(mean, log_var),
        )
    return grad_mean, grad_log_var


def _samples(x: Tensor) -> Tensor:
    """As [samples, rows, columns], without a copy of what is expanded over the samples."""
    return x.reshape(-1, *x.shape[-2:]) if x.dim() > 3 else x[(None,) * (3 - x.dim())]


def _is_aligned(samples: Tensor) -> bool:
    """Whether rows are whole 16-byte accesses."""
    width = 16 // samples.dtype.itemsize
    sample_stride, row_stride, column_stride = samples.stride()
    columns = samples.shape[2]
    sizes = (columns, row_stride, sample_stride)
    return (
        column_stride == 1
        and all(size % width == 0 for size in sizes)
        and samples.data_ptr() % 16 == 0
    )


def _count_units(samples: Tensor, variant: Variant) -> tuple[int, int]:
    """Units in all, and in a row."""
    units_per_row = triton.cdiv(samples.shape[2], variant.constants["WIDTH"])
    return samples.shape[0] * samples.shape[1] * units_per_row, units_per_row


def _layout(first: Tensor, log_var: Tensor) -> tuple[int, ...]:
    return first.shape[1], *first.stride(), *log_var.stride()
