"""JumpReLU and gated codes in numba: a pass over a code, and one in backward."""

from collections.abc import Callable, Sequence

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

    def task(_: int, rows: slice) -> None:
        select(z[rows], thresholds, *(output[rows] for output in outputs))

    _for_rows(len(z), task)
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
    sums = np.zeros((_tasks(len(z)), 2, len(thresholds)))
    add, width = (
        (_add_rectangle, bandwidth / 2) if estimator == "rectangle" else (_add_tanh, bandwidth)
    )

    def task(index: int, rows: slice) -> None:
        _pass(z[rows], thresholds, by_values[rows], output[rows])
        if threshold_needed:
            gradients = by_values[rows], by_active[rows]
            add(z[rows], thresholds, *gradients, np.float32(width), sums[index])

    _for_rows(len(z), task)
    grad_threshold = None
    if threshold_needed:
        of_values, of_active = torch.from_numpy(sums.sum(0))
        grad_threshold = -(of_values * threshold.double() + of_active) / bandwidth
        grad_threshold = grad_threshold.to(threshold.dtype)
    return grad.to(preactivation.dtype), grad_threshold


def gated(product: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z, *vectors = (_array(tensor) for tensor in (product, *parameters))
    values = torch.empty(product.shape, dtype=torch.float32, device="cpu")
    opened, totals = torch.empty_like(values), torch.empty_like(values[:, 0])
    outputs = [output.numpy() for output in (values, opened, totals)]

    def task(_: int, rows: slice) -> None:
        _open_gates(z[rows], *vectors, *(output[rows] for output in outputs))

    _for_rows(len(z), task)
    return values, opened, totals


def gated_backward(
    grads: Sequence[Tensor | None], product: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    z, *vectors = (_array(tensor) for tensor in (product, *parameters))
    none = product.new_zeros(())
    shapes = product.shape, product.shape, product.shape[:1]
    given = [
        _array(none.expand(shape) if grad is None else grad)
        for grad, shape in zip(grads, shapes, strict=True)
    ]
    grad_product = torch.empty(product.shape, dtype=torch.float32, device="cpu")
    output = grad_product.numpy()
    sums = np.zeros((_tasks(len(z)), 3, z.shape[1]))

    def task(index: int, rows: slice) -> None:
        gradients = (grad[rows] for grad in given)
        _gates_backward(z[rows], *vectors, *gradients, output[rows], sums[index])

    _for_rows(len(z), task)
    return grad_product, *torch.from_numpy(sums.sum(0)).float().unbind()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().numpy()


def _tasks(rows: int) -> int:
    return -(-rows // ROWS_PER_TASK)


def _for_rows(rows: int, body: Callable[[int, slice], None]) -> None:
    """body(task, its rows) for every task."""
    shared.parallel_for(
        _tasks(rows),
        lambda task: body(task, slice(task * ROWS_PER_TASK, (task + 1) * ROWS_PER_TASK)),
    )


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


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _open_gates(
    z: np.ndarray,
    gate_bias: np.ndarray,
    scale: np.ndarray,
    magnitude_bias: np.ndarray,
    values: np.ndarray,
    opened: np.ndarray,
    totals: np.ndarray,
) -> None:
    zero = np.float32(0)
    for row in range(z.shape[0]):
        total = 0.0  # in float64
        for i in range(z.shape[1]):
            gate = z[row, i] + gate_bias[i]
            magnitude = z[row, i] * scale[i] + magnitude_bias[i]
            is_off = gate <= zero  # so that NaN is open
            opened[row, i] = zero if is_off else gate
            values[row, i] = zero if is_off or magnitude <= zero else magnitude
            total += opened[row, i]
        totals[row] = total


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _gates_backward(
    z: np.ndarray,
    gate_bias: np.ndarray,
    scale: np.ndarray,
    magnitude_bias: np.ndarray,
    by_values: np.ndarray,
    by_opened: np.ndarray,
    by_totals: np.ndarray,
    output: np.ndarray,
    sums: np.ndarray,
) -> None:
    zero = np.float32(0)
    for row in range(z.shape[0]):
        for i in range(z.shape[1]):
            is_off = z[row, i] + gate_bias[i] <= zero
            is_zero = is_off or z[row, i] * scale[i] + magnitude_bias[i] <= zero
            by_gate = zero if is_off else by_opened[row, i] + by_totals[row]
            by_magnitude = zero if is_zero else by_values[row, i]
            output[row, i] = by_gate + by_magnitude * scale[i]
            sums[0, i] += by_gate
            sums[1, i] += np.float64(by_magnitude) * z[row, i]
            sums[2, i] += by_magnitude
