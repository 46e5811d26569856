"""Noise injection in C++: csrc/ops/corrupt/corrupt.cpp."""

from functools import lru_cache
from math import copysign

import torch
from torch import Tensor

from aefast import random
from aefast.ops.corrupt.noise import Noise
from aefast.ops.shared.extension import _C

KINDS = _C.Noise.__members__


def corrupt(x: Tensor, noise: Noise) -> Tensor:
    kind, level, low, high, seed, row_offset, step = noise
    dtype = x.dtype
    if kind == "gaussian":
        x = x.float()
    if x.dim() != 2 or x.stride(1) != 1:
        x = x.contiguous()
    columns = x.shape[-1] if x.dim() else 1
    row_stride = x.stride(0) if x.dim() == 2 else columns
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    touched = to_low = low_bits = high_bits = 0
    if kind != "gaussian":
        touched, to_low = _thresholds(level)
    if kind == "salt_and_pepper":
        low_bits = _bits(low, copysign(1.0, low), dtype)
        high_bits = _bits(high, copysign(1.0, high), dtype)
    _C.corrupt(
        KINDS[kind],
        (x.data_ptr(), x.numel() // columns, columns, row_stride, 1),
        output.data_ptr(),
        x.element_size(),
        (int(seed), row_offset, step),
        level,
        touched,
        to_low,
        low_bits,
        high_bits,
        torch.get_num_threads(),
    )
    return output.to(dtype) if kind == "gaussian" else output


@lru_cache
def _thresholds(level: float) -> tuple[int, int]:
    """Below which random number an element is touched, and below which salt and pepper is low."""
    return random.threshold(level), random.threshold(level / 2)


@lru_cache
def _bits(value: float, sign: float, dtype: torch.dtype) -> int:
    """The bits of a number in this dtype. Its sign stands by itself: 0 and -0 are the same key."""
    bits = torch.tensor([value], dtype=dtype, device="cpu").view(torch.uint8).tolist()
    return int.from_bytes(bits, "little")
