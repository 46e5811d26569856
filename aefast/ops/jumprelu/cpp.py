"""JumpReLU codes in C++: csrc/ops/jumprelu/jumprelu.cpp."""

import torch
from torch import Tensor

from aefast.ops.shared.cpp import ELEMENT_TYPES, as_matrix, partial_sums
from aefast.ops.shared.extension import _C

ESTIMATORS = _C.Estimator.__members__


def forward(preactivation: Tensor, threshold: Tensor, counted: bool) -> tuple[Tensor, Tensor]:
    preactivation, threshold = _by_rows(preactivation), threshold.contiguous()
    values = preactivation.new_empty(preactivation.shape)
    active = torch.FloatTensor(len(values)) if counted else values.new_empty(values.shape)
    _C.jumprelu(
        as_matrix(preactivation),
        threshold.data_ptr(),
        values.data_ptr(),
        0 if counted else active.data_ptr(),
        active.data_ptr() if counted else 0,
        ELEMENT_TYPES[values.dtype],
        torch.get_num_threads(),
    )
    return values, active


def backward(
    grad_values: Tensor,
    grad_active: Tensor,
    preactivation: Tensor,
    threshold: Tensor,
    bandwidth: float,
    estimator: str,
    threshold_needed: bool,
) -> tuple[Tensor, Tensor | None]:
    grad_values, grad_active = _by_rows(grad_values), _by_rows(grad_active)
    preactivation, threshold = _by_rows(preactivation), threshold.contiguous()
    grad_preactivation = preactivation.new_empty(preactivation.shape)
    grad_threshold = threshold.new_empty(threshold.shape) if threshold_needed else None
    rows, columns = preactivation.shape
    sums = partial_sums(rows if threshold_needed else 0, 2 * columns)
    _C.jumprelu_backward(
        as_matrix(grad_values),
        as_matrix(grad_active),
        as_matrix(preactivation),
        threshold.data_ptr(),
        grad_preactivation.data_ptr(),
        0 if grad_threshold is None else grad_threshold.data_ptr(),
        sums.data_ptr(),
        ELEMENT_TYPES[preactivation.dtype],
        bandwidth,
        ESTIMATORS[estimator],
        torch.get_num_threads(),
    )
    return grad_preactivation, grad_threshold


def active_latents(values: Tensor) -> Tensor:
    values = _by_rows(values)
    active = torch.BoolTensor(values.shape[1])
    _C.active_latents(
        as_matrix(values),
        active.data_ptr(),
        ELEMENT_TYPES[values.dtype],
        torch.get_num_threads(),
    )
    return active


def _by_rows(matrix: Tensor) -> Tensor:
    """A matrix whose elements are 0 or 1 element apart in a row."""
    return matrix if matrix.stride(1) in (0, 1) else matrix.contiguous()
