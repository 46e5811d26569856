"""Noise injection on the GPU: one pass over the data, with the noise drawn in registers.

The tensor is cut into units of adjacent columns of one row, 16 bytes wide where its layout allows,
else 4 elements. A thread takes whole units, so each Philox call serves four elements it holds and
every access to memory is as wide as a thread can make it.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

from aefast import random
from aefast.ops.corrupt.noise import Noise
from aefast.ops.shared.triton import (
    TYPE_NAMES,
    Variant,
    cdiv,
    device_of,
    seed_arguments,
    strides_of,
)

UNITS = 512  # units for each program: with 4 warps, four independent accesses for each thread


@cache
def _variant(kernel: str, dtype: torch.dtype, aligned: bool) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    width = 16 // dtype.itemsize if aligned else 4
    return Variant(
        f"corrupt.triton_kernels.{kernel}",
        {"x_pointer": pointer, "output_pointer": pointer},
        {"UNITS": UNITS, "WIDTH": width, "ALIGNED": aligned},
    )


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file, the same on all generations."""
    for kernel in ("replace_kernel", "gaussian_kernel"):
        for dtype in TYPE_NAMES:
            for aligned in (True, False):
                yield _variant(kernel, dtype, aligned)


def corrupt(x: Tensor, noise: Noise) -> Tensor:
    kind, level, low, high, seed, row_offset, step = noise
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
    units_per_row = columns // width if aligned else cdiv(columns, 4)

    arguments = {
        "x_pointer": flat,
        "output_pointer": output,
        **seed_arguments(seed, x.device),
        "row_offset": row_offset,
        "step": step,
        "unit_count": rows * units_per_row,
        "units_per_row": units_per_row,
        "columns": columns,
        **strides_of(x=flat),
    }
    programs = cdiv(rows * units_per_row, UNITS)
    with device_of(x):
        if kind == "gaussian":
            variant = _variant("gaussian_kernel", x.dtype, aligned)
            variant.launch(programs, **arguments, level=level)
        else:
            high_threshold = random.threshold(level)
            if kind == "masking":
                low_threshold, low = high_threshold, 0.0
            else:
                low_threshold = random.threshold(float(np.float32(level)) / 2)
            variant = _variant("replace_kernel", x.dtype, aligned)
            variant.launch(
                programs,
                **arguments,
                low_threshold=low_threshold,
                high_threshold=high_threshold,
                low=low,
                high=high,
            )
    return output
