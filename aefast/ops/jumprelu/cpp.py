"""JumpReLU and gated codes in C++: csrc/ops/jumprelu/."""

from collections.abc import Sequence

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


def gated(product: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    product, parameters = product.contiguous(), tuple(p.contiguous() for p in parameters)
    values, opened = product.new_empty(product.shape), product.new_empty(product.shape)
    totals = torch.FloatTensor(len(product))
    _C.gated(
        as_matrix(product),
        [p.data_ptr() for p in parameters],
        values.data_ptr(),
        opened.data_ptr(),
        totals.data_ptr(),
        torch.get_num_threads(),
    )
    return values, opened, totals


def gated_backward(
    grads: Sequence[Tensor | None], product: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    product, parameters = product.contiguous(), tuple(p.contiguous() for p in parameters)
    by_values, by_opened, by_totals = (None if g is None else g.contiguous() for g in grads)
    grad_product = product.new_empty(product.shape)
    rows, columns = product.shape
    grad_parameters = product.new_empty(3, columns)
    sums = partial_sums(rows, 3 * columns)
    _C.gated_backward(
        as_matrix(product),
        [p.data_ptr() for p in parameters],
        0 if by_values is None else by_values.data_ptr(),
        0 if by_opened is None else by_opened.data_ptr(),
        0 if by_totals is None else by_totals.data_ptr(),
        grad_product.data_ptr(),
        grad_parameters.data_ptr(),
        sums.data_ptr(),
        torch.get_num_threads(),
    )
    return grad_product, *grad_parameters.unbind()


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
