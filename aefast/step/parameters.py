"""What the kernels of a training step require of the tensors whose memory they read."""

from collections.abc import Iterable

import torch
from torch import Tensor


def unsuitable(tensors: Iterable[Tensor], what: str = "a parameter") -> str | None:
    """Why the kernels cannot read one of the tensors, which a message calls ``what``; None where
    they can read all."""
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_cpu:
            return f"{what} is not float32 on the CPU"
        if not tensor.is_contiguous() or tensor.is_neg():
            return f"{what} is not contiguous, or a negative view"
        if not tensor.data_ptr():
            return f"{what} has no memory: its storage was freed"
    return None
