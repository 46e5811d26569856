"""Noise injection as the equations read.

Reference: Vincent, Larochelle, Lajoie, Bengio, Manzagol, "Stacked denoising autoencoders", JMLR
11, 2010, section 3.3.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import random
from aefast.ops.corrupt.noise import Noise


def corrupt(x: Tensor, noise: Noise) -> Tensor:
    kind, level, low, high, seed, row_offset, step = noise
    x = x.contiguous()
    columns = x.shape[-1] if x.dim() else 1
    rows = x.numel() // max(columns, 1)
    stream: Any = {"step": step, "row_offset": row_offset, "device": x.device}

    if kind == "gaussian":
        z = random.normal(seed, rows, columns, **stream).reshape(x.shape)
        if x.dtype == torch.float64:
            return x + level * z
        return (x.float() + level * z).to(x.dtype)

    u = random.uniform(seed, rows, columns, **stream).reshape(x.shape)
    # Filled in on the device: a copy from the host is nothing that a CUDA graph captures.
    probability = torch.full((), level, dtype=torch.float32, device=x.device)
    if kind == "masking":
        return torch.where(u < probability, 0, x)
    salt_or_pepper = torch.where(u < probability / 2, x.new_full((), low), x.new_full((), high))
    return torch.where(u < probability, salt_or_pepper, x)
