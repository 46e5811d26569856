"""A Gaussian code's sample and divergence in numba."""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.shared import numba as shared
from aefast.random import DrawStep

# What a kernel draws at a time, in columns: the words stay in the first-level cache.
STRETCH = 4096


def reparameterize(mean: Tensor, log_var: Tensor, seed: int | Tensor, row_offset: int) -> Tensor:
    return _scaled_noise(_add_noise, mean, log_var, 1.0, seed, row_offset)


def scaled_noise(
    factor: Tensor, log_var: Tensor, scale: float, seed: int | Tensor, row_offset: int
) -> Tensor:
    return _scaled_noise(_multiply_noise, factor, log_var, scale, seed, row_offset)


def _scaled_noise(
    kernel: Callable[..., None],
    operand: Tensor,
    log_var: Tensor,
    scale: float,
    seed: int | Tensor,
    row_offset: int,
) -> Tensor:
    output = torch.empty(log_var.shape, dtype=torch.float32, device="cpu")
    arrays = [_rows(tensor) for tensor in (operand, log_var, output)]
    step = DrawStep.REPARAMETERIZE.value

    def task(rows: slice) -> None:
        blocks = (array[rows] for array in arrays)
        kernel(*blocks, int(seed), row_offset + rows.start, step, np.float32(scale))

    _for_each_row_block(arrays[0].shape, task)
    return output.to(log_var.dtype)


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    divergence = torch.empty(mean.shape[:-1], dtype=torch.float32, device="cpu")
    means, log_vars = _rows(mean), _rows(log_var)
    divergences = divergence.numpy().reshape(-1)
    _for_each_row_block(
        means.shape, lambda rows: _gaussian_kl(means[rows], log_vars[rows], divergences[rows])
    )
    return divergence.to(mean.dtype)


def gaussian_kl_backward(grad: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    grad_mean, grad_log_var = (
        torch.empty(mean.shape, dtype=torch.float32, device="cpu") for _ in range(2)
    )
    arrays = [_rows(t) for t in (grad[..., None], mean, log_var, grad_mean, grad_log_var)]
    _for_each_row_block(
        arrays[1].shape, lambda rows: _gaussian_kl_backward(*(array[rows] for array in arrays))
    )
    return grad_mean.to(mean.dtype), grad_log_var.to(mean.dtype)


def _rows(x: Tensor) -> np.ndarray:
    """x as [rows, columns] in float32."""
    columns = x.shape[-1] if x.dim() else 1
    return x.detach().contiguous().float().numpy().reshape(-1, columns)


def _for_each_row_block(shape: tuple[int, ...], body: Callable[[slice], None]) -> None:
    """body(rows) for blocks of the rows of [rows, columns], in parallel."""
    rows, columns = shape
    size = max(1, shared.ELEMENTS_PER_TASK // columns)

    def task(index: int) -> None:
        body(slice(index * size, (index + 1) * size))

    shared.parallel_for(-(-rows // size), task)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _add_noise(
    mean: np.ndarray,
    log_var: np.ndarray,
    output: np.ndarray,
    seed: int,
    first_row: int,
    step: int,
    scale: np.float32,
) -> None:
    words, normals = np.empty(STRETCH, np.uint32), np.empty(STRETCH, np.float32)
    for row in range(mean.shape[0]):
        for start in range(0, mean.shape[1], STRETCH):
            draw(seed, first_row + row, step, start, mean.shape[1], words, normals)
            for i in range(min(STRETCH, mean.shape[1] - start)):
                deviation = scale * shared.exp(np.float32(0.5) * log_var[row, start + i])
                output[row, start + i] = mean[row, start + i] + deviation * normals[i]


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _multiply_noise(
    factor: np.ndarray,
    log_var: np.ndarray,
    output: np.ndarray,
    seed: int,
    first_row: int,
    step: int,
    scale: np.float32,
) -> None:
    words, normals = np.empty(STRETCH, np.uint32), np.empty(STRETCH, np.float32)
    for row in range(factor.shape[0]):
        for start in range(0, factor.shape[1], STRETCH):
            draw(seed, first_row + row, step, start, factor.shape[1], words, normals)
            for i in range(min(STRETCH, factor.shape[1] - start)):
                deviation = scale * shared.exp(np.float32(0.5) * log_var[row, start + i])
                output[row, start + i] = factor[row, start + i] * (deviation * normals[i])


@njit(error_model="numpy")
def draw(
    seed: int,
    row: int,
    step: int,
    start: int,
    columns: int,
    words: np.ndarray,
    normals: np.ndarray,
) -> None:
    """The normals of a row's columns from ``start`` on, as many as there is room for."""
    count = min(words.size, (columns - start + 3) // 4 * 4)
    shared.fill_words(seed, row, step, start // 4, words[:count])
    shared.fill_normals(words[:count], normals)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _gaussian_kl(mean: np.ndarray, log_var: np.ndarray, divergence: np.ndarray) -> None:
    terms = np.empty(mean.shape[1], np.float32)
    for row in range(mean.shape[0]):
        for i in range(terms.size):
            m, v = mean[row, i], log_var[row, i]
            terms[i] = m * m + shared.exp_remainder(v)
        total = np.float64(0)
        for term in terms:
            total += np.float64(term)
        divergence[row] = np.float32(0.5 * total)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _gaussian_kl_backward(
    grad: np.ndarray,
    mean: np.ndarray,
    log_var: np.ndarray,
    grad_mean: np.ndarray,
    grad_log_var: np.ndarray,
) -> None:
    for row in range(mean.shape[0]):
        g = grad[row, 0]
        for i in range(mean.shape[1]):
            grad_mean[row, i] = g * mean[row, i]
            grad_log_var[row, i] = g * (np.float32(0.5) * shared.expm1(log_var[row, i]))
