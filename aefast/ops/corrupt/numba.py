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
    columns = x.shape[-1] if x.dim() else 1
    source = x.detach().contiguous()
    if kind == "gaussian":
        kernel, arguments = _gaussian, (np.float32(level),)
        source = source.float()
    else:
        bits = torch.uint32 if x.dtype == torch.float32 else torch.uint16
        source = source.reshape(-1).view(bits)
        replacements = torch.tensor([low, high], dtype=x.dtype, device="cpu").view(bits).numpy()
        if kind == "masking":
            replacements = np.zeros_like(replacements)
        thresholds = (np.uint32(random.threshold(p)) for p in (level, level / 2))
        kernel, arguments = _replace, (*thresholds, *replacements)
    output = torch.empty_like(source)
    rows_in, rows_out = (t.numpy().reshape(-1, columns) for t in (source, output))
    rows_per_task = max(1, shared.ELEMENTS_PER_TASK // columns)

    def task(index: int) -> None:
        rows = slice(index * rows_per_task, (index + 1) * rows_per_task)
        first_row = row_offset + rows.start
        kernel(rows_in[rows], rows_out[rows], int(seed), first_row, step, *arguments)

    shared.parallel_for(-(-rows_in.shape[0] // rows_per_task), task)
    return (output if kind == "gaussian" else output.view(x.dtype)).to(x.dtype).reshape(x.shape)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _replace(
    x: np.ndarray,
    output: np.ndarray,
    seed: int,
    first_row: int,
    step: int,
    touched: int,
    to_low: int,
    low: int,
    high: int,
) -> None:
    """``low`` where u < level / 2, ``high`` where u < level, else x; on the elements' bits."""
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
    x: np.ndarray, output: np.ndarray, seed: int, first_row: int, step: int, level: np.float32
) -> None:
    words = np.empty(STRETCH, np.uint32)
    normals = np.empty(STRETCH, np.float32)
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], STRETCH):
            x_part = x[row, start : start + STRETCH]
            output_part = output[row, start : start + STRETCH]
            random_words = words[: (x_part.size + 3) // 4 * 4]
            shared.fill_words(seed, first_row + row, step, start // 4, random_words)
            shared.fill_normals(random_words, normals)
            for i in range(x_part.size):
                output_part[i] = x_part[i] + level * normals[i]
