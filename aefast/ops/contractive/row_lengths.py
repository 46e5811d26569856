"""The squared lengths of a weight's rows, also where they leave the dtype's range.

The penalty of one layer is sum_j d_j^2 |W_j|^2. A row of 1e20 has a square of infinity in float32,
though its slope d_j may be 1e-20, or 0. Such a row is divided by a scale s_j, and the slope is
multiplied by it: (d_j s_j)^2 |W_j / s_j|^2. All other rows have the scale 1, which changes no bit.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.ops.shared import dispatch


class RowLengths(NamedTuple):
    """|W_j|^2 = scales_j^2 squares_j; both [H]."""

    squares: Tensor
    scales: Tensor | None  # None: all are 1

    def scaled(self, slopes: Tensor) -> Tensor:
        """The slopes [..., H] times the scales."""
        return slopes if self.scales is None else slopes * self.scales

    def weight_gradient(self, grad: Tensor, weight: Tensor) -> Tensor:
        """The gradient by the weight [H, D] of sum_i g_i d_ij^2 s_j [H]: g is the gradient by the
        penalties."""
        rows = weight if self.scales is None else weight / self.scales[:, None]
        return 2 * grad[:, None] * rows


def row_lengths(weight: Tensor) -> RowLengths:
    """The row lengths of a weight [H, D]. A scale is the largest |w| of its row."""
    squares = weight.square().sum(1)
    if weight.shape[1] == 0 or _is_known_finite(squares):
        return RowLengths(squares, None)
    largest = weight.detach().abs().amax(1).clamp(max=torch.finfo(weight.dtype).max)
    scales = torch.where(squares.detach() == math.inf, largest, 1.0)
    return RowLengths((weight / scales[:, None]).square().sum(1), scales)


def penalty_factors(slopes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors of d_j^2 |W_j|^2, [B, H] and [H], whose gradients stay in range as they do.

    The scales are on one d_j and one W_j alone: d_j^2 s_j^2 may be infinite where only the
    gradient by the weight is finite. The other two are a little smaller and larger, so that a sum
    over D is in range.
    """
    squares, scales = row_lengths(weight)
    if scales is None:
        return slopes.square(), squares
    shifts = torch.where(scales == 1, 1.0, 2.0**16)
    left = (slopes * scales) * (slopes * shifts)
    return left, ((weight / scales[:, None]) * (weight / shifts[:, None])).sum(1)


def _is_known_finite(squares: Tensor) -> bool:
    """Whether they can be read, without waiting for a GPU, and are finite."""
    if not squares.is_cpu or dispatch.is_traced(squares) or dispatch.is_in_functorch():
        return False
    return math.isfinite(squares.detach().sum().item())
