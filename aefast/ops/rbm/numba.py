"""Gibbs sampling in numba, around the vendor's matrix products."""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.rbm.primitives import ChainPrimitives
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.shared import numba as shared


def primitives(machine: Machine, settings: ChainSettings) -> ChainPrimitives:
    return _Primitives()


class _Primitives(ChainPrimitives):
    def sample_units(
        self,
        values: Tensor,
        deviation: Tensor | None,
        factor: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> Tensor | None:
        if deviation is None:
            return _draw_bernoulli(values, factor, keep, settings, step)
        means = values.clone() if keep else None
        noise = torch.empty_like(values)
        array, columns = noise.numpy(), values.shape[1]
        seed, row_offset = int(settings.seed), settings.row_offset

        def draw(rows: slice) -> None:
            _normals(array[rows], seed, row_offset + rows.start, step, columns)

        _for_rows(values, draw)
        values += noise * deviation if factor is None else noise * deviation * factor[:, None]
        return means


def _draw_bernoulli(
    values: Tensor, beta: Tensor | None, keep: bool, settings: ChainSettings, step: int
) -> Tensor | None:
    means = torch.empty_like(values) if keep else values.new_empty(0, 0)
    betas = values.new_ones(len(values)) if beta is None else beta.expand(len(values))
    arrays = [tensor.numpy() for tensor in (values, means, betas)]
    seed, row_offset = int(settings.seed), settings.row_offset

    def draw(rows: slice) -> None:
        blocks = (array[rows] for array in arrays)
        _bernoulli(*blocks, keep, seed, row_offset + rows.start, step)

    _for_rows(values, draw)
    return means if keep else None


def _for_rows(values: Tensor, body: Callable[[slice], None]) -> None:
    """body(rows) for parts of a matrix, on all threads."""
    rows, columns = values.shape
    count = max(1, shared.ELEMENTS_PER_TASK // columns)
    shared.parallel_for(
        -(-rows // count), lambda index: body(slice(index * count, (index + 1) * count))
    )


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _bernoulli(
    values: np.ndarray,
    means: np.ndarray,
    betas: np.ndarray,
    keep: bool,
    seed: int,
    first_row: int,
    step: int,
) -> None:
    rows, columns = values.shape
    words = np.empty((columns + 3) // 4 * 4, dtype=np.uint32)
    for row in range(rows):
        shared.fill_words(seed, first_row + row, step, 0, words)
        for column in range(columns):
            probability = shared.sigmoid(betas[row] * values[row, column])
            if keep:
                means[row, column] = probability
            uniform = np.float32(words[column] >> np.uint32(8)) * np.float32(2.0**-24)
            values[row, column] = np.float32(1) if uniform < probability else np.float32(0)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _normals(noise: np.ndarray, seed: int, first_row: int, step: int, columns: int) -> None:
    words = np.empty((columns + 3) // 4 * 4, dtype=np.uint32)
    normals = np.empty(words.size, dtype=np.float32)
    for row in range(noise.shape[0]):
        shared.fill_words(seed, first_row + row, step, 0, words)
        shared.fill_normals(words, normals)
        noise[row] = normals[:columns]
