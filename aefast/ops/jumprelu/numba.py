"""JumpReLU codes in numba: a pass over the pre-activations, and one in backward."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.shared import numba as shared

# Rows whose sums are added up on their own, whatever the thread count.
ROWS_PER_TASK = 32


def forward(preactivation: Tensor, threshold: Tensor, counted: bool) -> tuple[Tensor, Tensor]:
    z, thresholds = _array(preactivation), _array(threshold)
    values = torch.empty(preactivation.shape, dtype=torch.float32, device="cpu")
    active = torch.empty_like(values[:, 0] if counted else values)
    outputs = values.numpy(), active.numpy()
    select = _count if counted else _flag

    def task(index: int) -> None:
        rows = slice(index * ROWS_PER_TASK, (index + 1) * ROWS_PER_TASK)
        select(z[rows], thresholds, *(output[rows] for output in outputs))

    shared.parallel_for(-(-len(z) // ROWS_PER_TASK), task)
    dtype = preactivation.dtype
    return values.to(dtype), active if counted else active.to(dtype)


def backward(
    grad_values: Tensor,
    grad_active: Tensor,
    preactivation: Tensor,
    threshold: Tensor,
    bandwidth: float,
    estimator: str,
    threshold_needed: bool,
) -> tuple[Tensor, Tensor | None]:
    z, thresholds = _array(preactivation), _array(threshold)
    by_values, by_active = _array(grad_values), _array(grad_active)
    grad = torch.empty(preactivation.shape, dtype=torch.float32, device="cpu")
    output = grad.numpy()
    tasks = -(-len(z) // ROWS_PER_TASK)
    sums = np.zeros((tasks, 2, len(thresholds)))
    add, width = (
        (_add_rectangle, bandwidth / 2) if estimator == "rectangle" else (_add_tanh, bandwidth)
    )

    def task(index: int) -> None:
        rows = slice(index * ROWS_PER_TASK, (index + 1) * ROWS_PER_TASK)
        _pass(z[rows], thresholds, by_values[rows], output[rows])
        if threshold_needed:
            gradients = by_values[rows], by_active[rows]
            add(z[rows], thresholds, *gradients, np.float32(width), sums[index])

    shared.parallel_for(tasks, task)
    grad_threshold = None
    if threshold_needed:
        of_values, of_active = torch.from_numpy(sums.sum(0))
        grad_threshold = -(of_values * threshold.double() + of_active) / bandwidth
        grad_threshold = grad_threshold.to(threshold.dtype)
    return grad.to(preactivation.dtype), grad_threshold


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _count(z: np.ndarray, thresholds: np.ndarray, values: np.ndarray, counts: np.ndarray) -> None:
    zero = np.float32(0)
    for row in range(z.shape[0]):
        on = 0
        for i in range(z.shape[1]):
            is_off = z[row, i] <= thresholds[i]  # so that NaN is on
            values[row, i] = zero if is_off else z[row, i]
            on += not is_off
        counts[row] = on


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _flag(z: np.ndarray, thresholds: np.ndarray, values: np.ndarray, active: np.ndarray) -> None:
    zero, one = np.float32(0), np.float32(1)
    for row in range(z.shape[0]):
        for i in range(z.shape[1]):
            is_off = z[row, i] <= thresholds[i]
            values[row, i] = zero if is_off else z[row, i]
            active[row, i] = zero if is_off else one


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _pass(z: np.ndarray, thresholds: np.ndarray, grad: np.ndarray, output: np.ndarray) -> None:
    zero = np.float32(0)
    for row in range(z.shape[0]):
        for i in range(z.shape[1]):
            output[row, i] = zero if z[row, i] <= thresholds[i] else grad[row, i]


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _add_rectangle(
    z: np.ndarray,
    thresholds: np.ndarray,
    by_values: np.ndarray,
    by_active: np.ndarray,
    half: np.float32,
    sums: np.ndarray,
) -> None:
    zero = np.float32(0)
    for row in range(z.shape[0]):
        for i in range(z.shape[1]):
            is_near = abs(z[row, i] - thresholds[i]) < half
            sums[0, i] += by_values[row, i] if is_near else zero
            sums[1, i] += by_active[row, i] if is_near else zero


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _add_tanh(
    z: np.ndarray,
    thresholds: np.ndarray,
    by_values: np.ndarray,
    by_active: np.ndarray,
    bandwidth: np.float32,
    sums: np.ndarray,
) -> None:
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for row in range(z.shape[0]):
        for i in range(z.shape[1]):
            distance = z[row, i] - thresholds[i]
            step = shared.tanh(two * distance / bandwidth)
            density = one - step * step if distance == distance else zero
            sums[0, i] += density * by_values[row, i]
            sums[1, i] += density * by_active[row, i]
