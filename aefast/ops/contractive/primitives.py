"""The primitives of the contractive penalty's two passes, in plain PyTorch.

A backend overrides those that it has a kernel for. Shapes: P rows of data (samples); K inputs and H
outputs of a layer; R rows a sample, for which see rows.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.contractive.row_lengths import RowLengths, row_lengths
from aefast.ops.corrupt.noise import Noise
from aefast.ops.corrupt.op import corrupt_with
from aefast.ops.linear_act.eager import (
    ACTIVATIONS,
    CURVATURES,
    DERIVATIVES,
    PIECEWISE_LINEAR,
)

# A backend's own kind: a tensor, or one packed for its product.
Operand = Any


class PenaltyPrimitives:
    """``saved`` is what ``encode`` keeps of a layer for its slopes act'(a): here a itself."""

    # The dtype of autocast, whose products ours replace at no less precision; None where it is off.
    autocast: torch.dtype | None = None

    def panel_bytes(self, device: torch.device) -> int:
        """The most memory of a panel of samples' rows. From 8 to 32 MiB it makes no difference."""
        return 8 << 20

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """x with noise."""
        return corrupt_with(x, noise)

    def operand(self, right: Tensor) -> Operand:
        """The right operand [N, K] of a product left @ right.T, made ready for several."""
        return right

    def multiply(self, left: Tensor, right: Operand) -> Tensor:
        """left [M, K] @ right.T, for a right operand made ready."""
        return torch.mm(left, right.t())

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        """total + left [P, M].T @ right [P, N]; total is given up to it, None for none."""
        return torch.mm(left.t(), right) if total is None else total.addmm_(left.t(), right)

    def encode(
        self, x: Tensor, weight: Operand, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor]:
        """act(x Wt + b) [P, H], and what tells its slopes."""
        preactivation = F.linear(x, weight, bias)
        return ACTIVATIONS[activation](preactivation), preactivation

    def slopes(self, saved: Tensor, activation: str) -> Tensor:
        """act' [P, H]."""
        return DERIVATIVES[activation](saved)

    def curvatures(self, saved: Tensor, activation: str) -> Tensor:
        """act'' [P, H]."""
        return CURVATURES[activation](saved)

    def slope_backward(
        self, saved: Tensor, activation: str, grad_code: Tensor | None, grad_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """grad_slope act'' + grad_code act' [P, H], and its sum over the rows [H].

        Of a ``PIECEWISE_LINEAR`` activation grad_slope counts for nothing, even infinite.
        """
        if activation in PIECEWISE_LINEAR:
            grad = torch.zeros_like(saved)
        else:
            grad = grad_slope * self.curvatures(saved, activation)
        if grad_code is not None:
            slopes = self.slopes(saved, activation)
            if activation == "relu":  # 0 where the slope is, even of an infinite gradient
                grad_code = grad_code.masked_fill(slopes == 0, 0)
            grad = grad + grad_code * slopes
        return grad, grad.sum(0)

    def row_lengths(self, weight: Tensor) -> RowLengths:
        """The squared lengths of a weight's rows, |W_j|^2; a half precision's weight comes in
        float32."""
        return row_lengths(weight)

    def penalty(self, saved: Tensor, activation: str, lengths: RowLengths) -> Tensor:
        """sum_j act'_j^2 |W_j|^2; [P]."""
        return lengths.scaled(self.slopes(saved, activation)).square() @ lengths.squares

    def penalty_backward(
        self,
        saved: Tensor,
        activation: str,
        grad_code: Tensor | None,
        grad_penalty: Tensor,
        lengths: RowLengths,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient by a [P, H], its sum over the rows, and what
        :meth:`RowLengths.weight_gradient` takes [H]."""
        slopes = self.slopes(saved, activation)
        scaled_slopes = lengths.scaled(slopes)
        grad_slope = lengths.scaled(2 * grad_penalty[:, None] * scaled_slopes * lengths.squares)
        grad, grad_bias = self.slope_backward(saved, activation, grad_code, grad_slope)
        # torch's sum adds in pairs: a matrix-vector product lost three times as much to rounding.
        return grad, grad_bias, (grad_penalty[:, None] * scaled_slopes * slopes).sum(0)

    def expand(self, start: Tensor, row_slope: Tensor | None, slope: Tensor) -> Tensor:
        """row_slope [P, R] start slope [P, K]; start is [R, K] for all, or [P, R, K]."""
        rows = start * slope.unsqueeze(1)
        return rows if row_slope is None else rows.mul_(row_slope.unsqueeze(2))

    def expand_backward(
        self,
        grad: Tensor,
        start: Tensor,
        row_slope: Tensor | None,
        slope: Tensor,
        grad_start: Tensor | None,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """The gradients by row_slope, slope and start; grad is given up.

        That by a start for all is added to grad_start, None for none yet.
        """
        grad_row_slope = None
        if row_slope is not None:
            grad_row_slope = (grad * slope.unsqueeze(1) * start).sum(2)
            grad = grad.mul_(row_slope.unsqueeze(2))
        grad_slope = (grad * start).sum(1)
        grad = grad.mul_(slope.unsqueeze(1))
        if start.dim() == 2:
            grad = grad.sum(0)
            grad = grad if grad_start is None else grad_start.add_(grad)
        return grad_row_slope, grad_slope, grad

    def dot_rows(self, left: Tensor, right: Tensor, total: Tensor) -> Tensor:
        """total [M] + the inner products of the rows of two matrices [M, K], in total's memory."""
        return total.add_((left * right).sum(1))
