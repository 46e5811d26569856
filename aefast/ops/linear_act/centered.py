"""A linear layer of rows less a center, as the encoder of a dictionary takes them.

The gradient by the center is that by the rows less it, summed over the rows and negated. The sum is
taken first, of the gradient by the pre-activations: a product of one row, where autograd takes one
of them all.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.linear_act import op
from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected


def centered_linear(
    x: Tensor, center: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """``(x - center) @ weight.T + bias``: x ``[..., D]``, center ``[D]``, weight ``[L, D]``."""
    if not _serves(x, center, weight, bias):
        return op.run(x - center, weight, bias)
    op.check_tensors(x, weight, bias)
    name = backend.select(x.device, x.dtype)
    output = _CenteredLinear.apply(x.reshape(-1, x.shape[-1]), center, weight, bias, name)
    return output.view(*x.shape[:-1], len(weight))


def _serves(x: Tensor, center: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the center's gradient is asked for, and not x's, which takes the product of all
    rows; of kernels, outside traces and transforms."""
    if x.requires_grad or not (center.requires_grad and torch.is_grad_enabled()):
        return False
    if dispatch.is_traced(x, center, weight, bias) or dispatch.is_in_functorch():
        return False
    if dispatch.is_transformed(x, center) or dispatch.autocast_dtype(x.device) is not None:
        return False
    has_products = x.numel() > 0 and weight.numel() > 0
    return has_products and backend.select(x.device, x.dtype) != "eager"


class _CenteredLinear(KernelFunction):
    @staticmethod
    def forward(
        x: Tensor, center: Tensor, weight: Tensor, bias: Tensor | None, name: str
    ) -> Tensor:
        return op.forward(x - center, weight, bias, "identity", name, False)[0]

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, _, ctx.name = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, center, weight = ctx.saved_tensors
        rows = x - center if ctx.needs_input_grad[2] else None
        gradients: Any
        if op.is_defined(grad):
            gradients = None if rows is None else grad.t() @ rows, grad.sum(0)
            gradients = connected(gradients, (grad, center, weight))
        else:
            gradients = op.backward(grad, rows, None, None, "identity", ctx.name, True)[1:]
        grad_weight, grad_bias = gradients
        bias_needed = ctx.needs_input_grad[3]
        grad_center = -(grad_bias @ weight)
        return None, grad_center, grad_weight, grad_bias if bias_needed else None, None
