"""The reparameterized sample and the divergence of a Gaussian code on the GPU, in one pass each.

Sample and gradients are computed in units of adjacent columns of one row: see ``locate_units``.
Inputs are read as [samples, rows, columns], so that expanded ones are not copied.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared.triton import (
    TYPE_NAMES,
    Variant,
    cdiv,
    device_of,
    seed_arguments,
    strides_of,
)
from aefast.random import DrawStep

# Units for each program. With 4 warps a thread has four aligned units, each one access. An
# unaligned vector is several accesses: four of these took 254 registers for each thread.
ALIGNED_UNITS, UNALIGNED_UNITS = 512, 128

# The elements of a tile of the divergence, and the numbers of columns that it may have.
TILE = 2048
TILE_COLUMNS = (32, 128, 512)


def _unit_constants(dtype: torch.dtype, aligned: bool) -> dict[str, int]:
    if aligned:
        return {"UNITS": ALIGNED_UNITS, "WIDTH": 16 // dtype.itemsize, "ALIGNED": True}
    return {"UNITS": UNALIGNED_UNITS, "WIDTH": 4, "ALIGNED": False}


def _variant(
    kernel: str, pointers: tuple[str, ...], dtype: torch.dtype, constants: dict[str, int]
) -> Variant:
    types = {f"{name}_pointer": f"*{TYPE_NAMES[dtype]}" for name in pointers}
    return Variant(f"variational.triton_kernels.{kernel}", types, constants)


@cache
def _scaled_noise_variant(dtype: torch.dtype, aligned: bool, multiply: bool) -> Variant:
    constants = {"MULTIPLY": multiply, **_unit_constants(dtype, aligned)}
    pointers = ("first", "log_var", "output")
    return _variant("scaled_noise_kernel", pointers, dtype, constants)


@cache
def _kl_variant(dtype: torch.dtype, aligned: bool, columns: int) -> Variant:
    tile_columns = next((width for width in TILE_COLUMNS if columns <= width), TILE_COLUMNS[-1])
    alignment = 16 // dtype.itemsize if aligned else 1
    constants = {"ROWS": TILE // tile_columns, "COLUMNS": tile_columns, "ALIGNMENT": alignment}
    pointers = ("first", "log_var", "divergence")
    return _variant("gaussian_kl_kernel", pointers, dtype, constants)


@cache
def _kl_backward_variant(dtype: torch.dtype, aligned: bool) -> Variant:
    pointers = ("grad", "first", "log_var", "grad_mean", "grad_log_var")
    constants = _unit_constants(dtype, aligned)
    return _variant("gaussian_kl_backward_kernel", pointers, dtype, constants)


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file, the same on all generations."""
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
            cdiv(unit_count, variant.constants["UNITS"]),
            first_pointer=first,
            log_var_pointer=log_var,
            output_pointer=output,
            **seed_arguments(seed, first.device),
            row_offset=row_offset,
            step=DrawStep.REPARAMETERIZE.value,
            unit_count=unit_count,
            units_per_row=units_per_row,
            columns=first.shape[2],
            sample_rows=first.shape[1],
            **strides_of(first=first, log_var=log_var),
            scale=scale,
        )
    return output


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    divergence = torch.empty(mean.shape[:-1], dtype=mean.dtype, device=mean.device)
    mean, log_var = _samples(mean), _samples(log_var)
    columns = mean.shape[2]
    variant = _kl_variant(mean.dtype, _is_aligned(mean) and _is_aligned(log_var), columns)
    with device_of(mean):
        variant.launch(
            cdiv(divergence.numel(), variant.constants["ROWS"]),
            first_pointer=mean,
            log_var_pointer=log_var,
            divergence_pointer=divergence,
            rows=divergence.numel(),
            columns=columns,
            sample_rows=mean.shape[1],
            **strides_of(first=mean, log_var=log_var),
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
            cdiv(unit_count, variant.constants["UNITS"]),
            grad_pointer=grad.contiguous(),
            first_pointer=mean,
            log_var_pointer=log_var,
            grad_mean_pointer=grad_mean,
            grad_log_var_pointer=grad_log_var,
            unit_count=unit_count,
            units_per_row=units_per_row,
            columns=mean.shape[2],
            sample_rows=mean.shape[1],
            **strides_of(first=mean, log_var=log_var),
        )
    return grad_mean, grad_log_var


def _samples(x: Tensor) -> Tensor:
    """A view [samples, rows, columns]; x expanded over the samples is not copied."""
    return x.reshape(-1, *x.shape[-2:]) if x.dim() > 3 else x[(None,) * (3 - x.dim())]


def _is_aligned(samples: Tensor) -> bool:
    """Whether rows can be read in whole 16-byte accesses."""
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
    """The number of units in all, and in a row."""
    units_per_row = cdiv(samples.shape[2], variant.constants["WIDTH"])
    return samples.shape[0] * samples.shape[1] * units_per_row, units_per_row
