"""A linear layer with its activation in C++: csrc/gemm/ and csrc/ops/linear_act/."""

from torch import Tensor

from aefast.ops.shared import cpp as shared
from aefast.ops.shared.packing import weight_operand


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    operand = weight_operand(weight, x.shape[0])
    return shared.linear_act(x, operand, bias, activation, keep_preactivation)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    activation: str,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    grad_bias = grad_x = grad_weight = None
    if saved is not None:
        grad, grad_bias = shared.activation_backward(grad, saved, activation, needed[2])
    elif needed[2]:
        grad_bias = grad.sum(0)
    precision = shared.own_precision(x.dtype, weight.numel())
    if needed[0]:
        grad_x = shared.multiply(grad, shared.RightOperand(weight.t(), precision))
    if needed[1]:
        grad_weight = shared.multiply(grad.t(), shared.RightOperand(x.t(), precision))
    return grad_x, grad_weight, grad_bias
