"""Sparsity penalties in C++: csrc/ops/sparsity/sparsity.cpp."""

import math

import torch
from torch import Tensor

from aefast.ops.shared.cpp import ELEMENT_TYPES, as_matrix, partial_sums
from aefast.ops.shared.extension import _C
from aefast.ops.shared.precision import LARGEST, in_float32
from aefast.ops.sparsity.eager import check_activities, mean_activities


def kl_sparsity(code: Tensor, target: float) -> tuple[Tensor, Tensor]:
    slope = torch.FloatTensor(code.shape[1])
    sums = partial_sums(*code.shape)
    penalty = _C.kl_sparsity(
        as_matrix(code),
        sums.data_ptr(),
        ELEMENT_TYPES[code.dtype],
        target,
        slope.data_ptr(),
        torch.get_num_threads(),
    )
    if penalty == -math.inf:
        check_activities(mean_activities(code))
    return code.new_full((), penalty), slope


def l1_sparsity(code: Tensor) -> Tensor:
    sums = partial_sums(*code.shape)
    penalty = _C.l1_sparsity(
        as_matrix(code),
        sums.data_ptr(),
        ELEMENT_TYPES[code.dtype],
        torch.get_num_threads(),
    )
    return code.new_full((), penalty if penalty <= LARGEST else in_float32(penalty))


def l1_gradient(code: Tensor, factor: float) -> Tensor:
    """factor * sign(code)."""
    output = torch.empty_like(code, memory_format=torch.contiguous_format)
    _C.scaled_sign(
        as_matrix(code),
        output.data_ptr(),
        ELEMENT_TYPES[code.dtype],
        factor,
        torch.get_num_threads(),
    )
    return output
