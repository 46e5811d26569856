"""The normalization of what a sparse dictionary encodes, as other packages define it."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.sparse_reconstruction_loss.op import loss_and_residual
from aefast.ops.topk.op import SparseCode, as_rows, in_shape_of
from aefast.random import most_precise

# One scale for all rows, which is measured before training.
MEASURED = ("expected_average_only_in", "unit_mean_squared_norm")
# A scale for each row, its own.
BY_ROW = ("constant_norm_rescale", "layer_norm")
NORMALIZATIONS = ("none", *MEASURED, *BY_ROW)

# SAELens' and, in its layers, PyTorch's.
LAYER_NORM_EPSILON = 1e-5


class Normalized(NamedTuple):
    """Rows as they are encoded. Where each has a scale of its own, a reconstruction r of them is
    scale * r + shift.

    Attributes:
        rows: ``[..., D]``.
        scale: ``[..., 1]``, or 1.
        shift: ``[..., 1]``, or 0.
    """

    rows: Tensor
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0


def by_row(x: Tensor, normalization: str) -> Normalized:
    """Rows ``[..., D]``, each normalized by itself. One of zeros stays so."""
    if normalization == "layer_norm":
        mean = x.mean(dim=-1, keepdim=True)
        centered = x - mean
        # Not std, which warns of no rows.
        deviation = centered.norm(dim=-1, keepdim=True) / (x.shape[-1] - 1) ** 0.5
        return Normalized(centered / (deviation + LAYER_NORM_EPSILON), deviation, mean)
    length, norm = x.shape[-1] ** 0.5, x.norm(dim=-1, keepdim=True)
    factor = length / torch.where(norm == 0, length, norm)
    return Normalized(x * factor, 1 / factor, 0.0)


def measured_factor(x: Tensor, normalization: str) -> Tensor:
    """What rows ``[N, D]`` are multiplied by, a scalar: their mean norm becomes the square root of
    D, or their mean squared norm 1."""
    norms = torch.linalg.vector_norm(x, dim=1, dtype=most_precise(x.device))
    if normalization == "expected_average_only_in":
        return x.shape[1] ** 0.5 / norms.mean()
    return norms.square().mean().rsqrt()


class Target(NamedTuple):
    """What a reconstruction r, as scale * r + shift, is compared with.

    Attributes:
        rows: ``[..., O]``.
        scale: ``[..., 1]``, of rows that are normalized each by itself; None for r as it is.
        shift: ``[..., 1]``, or 0.
    """

    rows: Tensor
    scale: Tensor | float | None = None
    shift: Tensor | float = 0.0

    def error(self, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        """The mean squared error, and the residual ``[..., O]``, which has no gradient."""
        if self.scale is not None:
            reconstruction = reconstruction * self.scale + self.shift
        return F.mse_loss(reconstruction, self.rows), (reconstruction - self.rows).detach()

    def error_of(self, code: SparseCode, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what a code ``[..., k]``, or of the rows one after the other, reconstructs.
        The bias moves to the other side: scale * (c + h V) + shift - t = (scale * h) V - t'."""
        values, indices = code
        rows, start = self.rows, cast(Tensor | None, bias)
        if self.scale is not None:
            rows, start = rows - self.shift - self.scale * bias, None
            values = (in_shape_of(rows, values) * self.scale).view(values.shape)
        if values.dim() != rows.dim():
            rows = as_rows(rows)
        loss, residual = loss_and_residual(values, indices, weight, start, rows)
        return loss, residual.view(self.rows.shape)
