"""The squared error of what sparse codes reconstruct in numba."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast.ops.shared import numba as shared
from aefast.ops.topk import numba as topk


def sparse_reconstruction_loss(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    residual = topk.sparse_decode(values.float(), indices, weight, bias)
    squares = torch.empty(len(residual), dtype=torch.float64, device="cpu")
    differences, targets, sums = (
        tensor.detach().numpy() for tensor in (residual, target.float(), squares)
    )

    def compare(task: int) -> None:
        rows = slice(task * topk.ROWS_PER_TASK, (task + 1) * topk.ROWS_PER_TASK)
        _subtract(targets[rows], differences[rows], sums[rows])

    shared.parallel_for(-(-len(residual) // topk.ROWS_PER_TASK), compare)
    return squares.sum(), residual, topk.sampled_product(residual, weight, indices)


@njit(nogil=True, cache=shared.CACHE, error_model="numpy")
def _subtract(targets: np.ndarray, differences: np.ndarray, squares: np.ndarray) -> None:
    for row in range(targets.shape[0]):
        total = 0.0
        for column in range(targets.shape[1]):
            difference = differences[row, column] - targets[row, column]
            differences[row, column] = difference
            total += np.float64(difference) * np.float64(difference)
        squares[row] = total
