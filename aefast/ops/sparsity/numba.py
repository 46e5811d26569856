"""Sparsity penalties in numba: kernels pass over the code, the rest is H numbers."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.shared import numba as shared
from aefast.ops.sparsity import eager

# Rows whose sums are added up on their own, whatever the thread count.
ROWS_PER_TASK = 128


def kl_sparsity(code: Tensor, target: float) -> tuple[Tensor, Tensor]:
    rows = len(code)
    mean = _column_sums(code, absolute=False) / rows
    eager.check_activities(mean)
    slope = eager.derivative(mean, target) / rows
    return eager.divergence(mean, target).sum(), slope.float()


def l1_sparsity(code: Tensor) -> Tensor:
    return _column_sums(code, absolute=True).sum() / len(code)


def l1_gradient(code: Tensor, factor: float) -> Tensor:
    """factor * sign(code)."""
    values = code.detach().float().contiguous()
    output = torch.empty_like(values)
    flat_in, flat_out = (t.numpy().reshape(-1) for t in (values, output))

    def task(index: int) -> None:
        elements = slice(index * shared.ELEMENTS_PER_TASK, (index + 1) * shared.ELEMENTS_PER_TASK)
        _scaled_sign(flat_in[elements], flat_out[elements], np.float32(factor))

    shared.parallel_for(-(-flat_in.size // shared.ELEMENTS_PER_TASK), task)
    return output.to(code.dtype)


def _column_sums(code: Tensor, absolute: bool) -> Tensor:
    """The sums of the columns, or of their absolute values, in float64."""
    values = code.detach().float().numpy()
    tasks = -(-len(values) // ROWS_PER_TASK)
    partial_sums = np.zeros((tasks, values.shape[1]))

    def task(index: int) -> None:
        rows = values[index * ROWS_PER_TASK : (index + 1) * ROWS_PER_TASK]
        (_add_absolute if absolute else _add)(rows, partial_sums[index])

    shared.parallel_for(tasks, task)
    return torch.from_numpy(partial_sums.sum(0))


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _add(rows: np.ndarray, sums: np.ndarray) -> None:
    for row in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            sums[column] += rows[row, column]


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _add_absolute(rows: np.ndarray, sums: np.ndarray) -> None:
    for row in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            sums[column] += abs(rows[row, column])


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _scaled_sign(values: np.ndarray, output: np.ndarray, factor: np.float32) -> None:
    zero = np.float32(0)
    for i in range(values.size):
        value = values[i]
        positive = factor if value > zero else zero
        output[i] = -factor if value < zero else positive
