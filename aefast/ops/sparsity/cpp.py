"""Sparsity penalties in C++: csrc/ops/sparsity/sparsity.cpp."""

import torch
from torch import Tensor

from aefast.backend import extension
from aefast.ops.shared.cpp import ELEMENT_TYPES, partial_sums

_C = extension()


def kl_sparsity(code: Tensor, target: float) -> tuple[Tensor, Tensor]:
    slope = torch.empty(code.shape[1], dtype=torch.float32, device="cpu")
    sums = partial_sums(*code.shape)
    penalty = _C.kl_sparsity(
        code.data_ptr(),
        code.stride(0),
        sums.data_ptr(),
        ELEMENT_TYPES[code.dtype],
        *code.shape,
        target,
        slope.data_ptr(),
        torch.get_num_threads(),
    )
    return torch.tensor(penalty, dtype=code.dtype, device="cpu"), slope


def l1_sparsity(code: Tensor) -> Tensor:
    sums = partial_sums(*code.shape)
    penalty = _C.l1_sparsity(
        code.data_ptr(),
        code.stride(0),
        sums.data_ptr(),
        ELEMENT_TYPES[code.dtype],
        *code.shape,
        torch.get_num_threads(),
    )
    return torch.tensor(penalty, dtype=code.dtype, device="cpu")


def l1_gradient(code: Tensor, factor: float) -> Tensor:
    """factor * sign(code)."""
    output = torch.empty(code.shape, dtype=code.dtype, device="cpu")
    _C.scaled_sign(
        code.data_ptr(),
        code.stride(0),
        output.data_ptr(),
        ELEMENT_TYPES[code.dtype],
        *code.shape,
        factor,
        torch.get_num_threads(),
    )
    return output
