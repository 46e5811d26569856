"""The contractive penalty in C++: csrc/ops/contractive/, around the products of csrc/gemm/."""

import torch
from torch import Tensor

from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.contractive.row_lengths import RowLengths, row_lengths
from aefast.ops.linear_act.op import FROM_PREACTIVATION
from aefast.ops.shared import cpp as shared
from aefast.ops.shared.extension import _C


def primitives() -> PenaltyPrimitives:
    return _Primitives()


class _Primitives(PenaltyPrimitives):
    """``saved`` is what linear_act calls so, and for the identity the code."""

    def operand(self, right: Tensor) -> shared.RightOperand:
        return shared.packed_operand(right)

    def multiply(self, left: Tensor, right: shared.RightOperand) -> Tensor:
        return shared.multiply(left, right)

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        return shared.add_transposed_product(left, right, total)

    def encode(
        self, x: Tensor, weight: shared.RightOperand, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor]:
        keep_preactivation = activation in FROM_PREACTIVATION
        code, preactivation = shared.linear_act(x, weight, bias, activation, keep_preactivation)
        return code, code if preactivation is None else preactivation

    def slopes(self, saved: Tensor, activation: str) -> Tensor:
        output = torch.empty_like(saved)
        _C.slopes(
            saved.data_ptr(),
            output.data_ptr(),
            saved.numel(),
            shared.ACTIVATIONS[activation],
            torch.get_num_threads(),
        )
        return output

    def row_lengths(self, weight: Tensor) -> RowLengths:
        rows = weight if weight.stride(1) == 1 else weight.contiguous()
        squares = weight.new_empty(weight.shape[0])
        is_finite = _C.row_lengths(
            shared.as_matrix(rows), squares.data_ptr(), torch.get_num_threads()
        )
        return RowLengths(squares, None) if is_finite else row_lengths(weight)

    def penalty(self, saved: Tensor, activation: str, lengths: RowLengths) -> Tensor:
        penalty = saved.new_empty(saved.shape[0])
        _C.layer_penalty(
            shared.as_matrix(saved),
            *_addresses(lengths),
            penalty.data_ptr(),
            shared.ACTIVATIONS[activation],
            torch.get_num_threads(),
        )
        return penalty

    def slope_backward(
        self, saved: Tensor, activation: str, grad_code: Tensor | None, grad_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad, (grad_bias, _) = _backward(saved, activation, grad_code, grad_slope=grad_slope)
        return grad, grad_bias

    def penalty_backward(
        self,
        saved: Tensor,
        activation: str,
        grad_code: Tensor | None,
        grad_penalty: Tensor,
        lengths: RowLengths,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, (grad_bias, grad_lengths) = _backward(
            saved,
            activation,
            grad_code,
            grad_penalty=grad_penalty.contiguous(),
            lengths=lengths,
        )
        return grad, grad_bias, grad_lengths

    def expand(self, start: Tensor, row_slope: Tensor | None, slope: Tensor) -> Tensor:
        samples, columns = slope.shape
        rows = start.shape[-2]
        output = start.new_empty(samples, rows, columns)
        _C.expand(
            _samples(start),
            0 if row_slope is None else row_slope.data_ptr(),
            shared.as_matrix(slope),
            output.data_ptr(),
            torch.get_num_threads(),
        )
        return output

    def expand_backward(
        self,
        grad: Tensor,
        start: Tensor,
        row_slope: Tensor | None,
        slope: Tensor,
        grad_start: Tensor | None,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        samples, rows, columns = grad.shape
        is_common = start.dim() == 2
        if is_common:
            grad_start = torch.zeros_like(start) if grad_start is None else grad_start
        else:
            grad_start = grad
        grad_row_slope = None if row_slope is None else torch.empty_like(row_slope)
        partial_sums = grad.new_empty(samples, -(-rows // _C.ROWS_PER_PARTIAL_SUM), columns)
        _C.expand_backward(
            grad.data_ptr(),
            _samples(start),
            0 if row_slope is None else row_slope.data_ptr(),
            shared.as_matrix(slope),
            0 if grad_row_slope is None else grad_row_slope.data_ptr(),
            partial_sums.data_ptr(),
            grad_start.data_ptr(),
            is_common,
            torch.get_num_threads(),
        )
        return grad_row_slope, partial_sums.sum(1), grad_start

    def dot_rows(self, left: Tensor, right: Tensor, total: Tensor) -> Tensor:
        left, right = (m if m.stride(1) == 1 else m.contiguous() for m in (left, right))
        _C.dot_rows(
            shared.as_matrix(left),
            shared.as_matrix(right),
            total.data_ptr(),
            torch.get_num_threads(),
        )
        return total


def _samples(start: Tensor) -> tuple[int, int, int, int]:
    """Samples [S, B, N], or what all of them share [B, N], as a kernel takes them."""
    rows, columns = start.shape[-2:]
    return start.data_ptr(), rows, 0 if start.dim() == 2 else rows * columns, columns


def _addresses(lengths: RowLengths) -> tuple[int, int]:
    """The addresses of the squares and the scales, as a kernel takes them."""
    squares, scales = lengths
    return squares.data_ptr(), 0 if scales is None else scales.data_ptr()


def _backward(
    saved: Tensor,
    activation: str,
    grad_code: Tensor | None,
    *,
    grad_slope: Tensor | None = None,
    grad_penalty: Tensor | None = None,
    lengths: RowLengths | None = None,
) -> tuple[Tensor, Tensor]:
    if grad_code is not None and grad_code.stride(1) != 1:
        grad_code = grad_code.contiguous()
    grad = torch.empty_like(saved)
    sums = saved.new_empty(2, saved.shape[1])
    _C.slope_backward(
        shared.as_matrix(saved),
        None if grad_code is None else shared.as_matrix(grad_code),
        0 if grad_slope is None else grad_slope.data_ptr(),
        0 if grad_penalty is None else grad_penalty.data_ptr(),
        *(_addresses(lengths) if lengths is not None else (0, 0)),
        grad.data_ptr(),
        sums.data_ptr(),
        shared.ACTIVATIONS[activation],
        torch.get_num_threads(),
    )
    return grad, sums
