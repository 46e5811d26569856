"""Noise injection in numba."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast import random
from aefast.ops.corrupt.noise import Noise
from aefast.ops.shared import numba as shared

# Columns whose random words are drawn at a time: they stay in the first-level cache.
STRETCH = 4096


def corrupt(x: Tensor, noise: Noise) -> Tensor:
    kind, level, low, high, seed, row_offset, step = noise
    source = x.detach().contiguous()
    if kind == "gaussian":
        kernel, arguments = _gaussian, (level,)
        source = source.float()
    else:
        replacements = (0, 0) if kind == "masking" else _bits_of((low, high), x.dtype)
        thresholds = random.threshold(level), random.threshold(level / 2)
        kernel, arguments = _replace, (*thresholds, *replacements, x.itemsize)
    output = torch.empty_like(source)
    columns = x.shape[-1] if x.dim() else 1
    rows = source.numel() // columns
    rows_per_task = max(1, shared.ELEMENTS_PER_TASK // columns)
    addresses = source.data_ptr(), output.data_ptr()
    seed = int(seed)

    def task(index: int) -> None:
        first = index * rows_per_task
        offset = first * columns * source.itemsize
        part = *(address + offset for address in addresses), min(rows_per_task, rows - first)
        kernel(*part, columns, seed, row_offset + first, step, *arguments)

    shared.parallel_for(-(-rows // rows_per_task), task)
    return output.to(x.dtype)


def _bits_of(numbers: tuple[float, float], dtype: torch.dtype) -> list[int]:
    words = torch.uint32 if dtype == torch.float32 else torch.uint16
    return torch.tensor(numbers, dtype=dtype, device="cpu").view(words).tolist()


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _replace(
    x_at: int,
    output_at: int,
    rows: int,
    columns: int,
    seed: int,
    first_row: int,
    step: int,
    touched: int,
    to_low: int,
    low: int,
    high: int,
    itemsize: int,
) -> None:
    """``low`` where u < level / 2, ``high`` where u < level, else x; on the elements' bits."""
    chances = np.uint32(touched), np.uint32(to_low)
    if itemsize == 4:
        x, output = shared.words_at(x_at, rows, columns), shared.words_at(output_at, rows, columns)
        _replace_bits(x, output, seed, first_row, step, chances, np.uint32(low), np.uint32(high))
    else:
        x, output = (
            shared.halves_at(x_at, rows, columns),
            shared.halves_at(output_at, rows, columns),
        )
        _replace_bits(x, output, seed, first_row, step, chances, np.uint16(low), np.uint16(high))


@njit(error_model="numpy")
def _replace_bits(
    x: np.ndarray,
    output: np.ndarray,
    seed: int,
    first_row: int,
    step: int,
    chances: tuple[np.uint32, np.uint32],
    low: np.unsignedinteger,
    high: np.unsignedinteger,
) -> None:
    touched, to_low = chances
    words = np.empty(STRETCH, np.uint32)
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], STRETCH):
            x_part = x[row, start : start + STRETCH]
            output_part = output[row, start : start + STRETCH]
            random_words = words[: (x_part.size + 3) // 4 * 4]
            shared.fill_words(seed, first_row + row, step, start // 4, random_words)
            for i in range(x_part.size):
                u = words[i] >> np.uint32(8)
                replacement = low if u < to_low else high
                output_part[i] = replacement if u < touched else x_part[i]


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _gaussian(
    x_at: int,
    output_at: int,
    rows: int,
    columns: int,
    seed: int,
    first_row: int,
    step: int,
    level: float,
) -> None:
    x, output = shared.floats_at(x_at, rows, columns), shared.floats_at(output_at, rows, columns)
    deviation = np.float32(level)
    words = np.empty(STRETCH, np.uint32)
    normals = np.empty(STRETCH, np.float32)
    for row in range(rows):
        for start in range(0, columns, STRETCH):
            x_part = x[row, start : start + STRETCH]
            output_part = output[row, start : start + STRETCH]
            random_words = words[: (x_part.size + 3) // 4 * 4]
            shared.fill_words(seed, first_row + row, step, start // 4, random_words)
            shared.fill_normals(random_words, normals)
            for i in range(x_part.size):
                output_part[i] = x_part[i] + deviation * normals[i]
