"""Noise injection in C++: csrc/ops/corrupt/corrupt.cpp."""

import torch
from torch import Tensor

from aefast import random
from aefast.ops.corrupt.noise import Noise
from aefast.ops.shared.extension import _C


def corrupt(x: Tensor, noise: Noise) -> Tensor:
    kind, level, low, high, seed, row_offset, step = noise
    dtype = x.dtype
    touched = to_low = low_bits = high_bits = 0
    if kind == "gaussian":
        x = x.float()
    else:
        touched, to_low = random.threshold(level), random.threshold(level / 2)
    if kind == "salt_and_pepper":
        low_bits, high_bits = _bits(low, dtype), _bits(high, dtype)
    if x.dim() != 2 or x.stride(1) != 1:
        x = x.contiguous()
    columns = x.shape[-1] if x.dim() else 1
    row_stride = x.stride(0) if x.dim() == 2 else columns
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _C.corrupt(
        getattr(_C.Noise, kind),
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
    return output.to(dtype)


def _bits(value: float, dtype: torch.dtype) -> int:
    bits = torch.tensor([value], dtype=dtype, device="cpu").view(torch.uint8).tolist()
    return int.from_bytes(bits, "little")
