"""Gated codes: a gate says which latents are active, their magnitude how much. ::

    gate = z + b,    magnitude = relu(s z + m),    opened = relu(gate)
    values = magnitude where gate > 0, else 0

On a CPU in float32 a pass over the products z, and one in backward; else PyTorch's operators.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected
from aefast.ops.shared.precision import upcast
from aefast.ops.topk.op import as_rows, in_shape_of

Gated = tuple[Tensor, Tensor, Tensor]


def gated(product: Tensor, gate_bias: Tensor, scale: Tensor, magnitude_bias: Tensor) -> Gated:
    """The values and what opens the gates, of products ``[..., L]``, and the sum ``[...]`` of what
    opens those of a row, in float32 at least. The parameters are ``[L]``."""
    tensors = product, gate_bias, scale, magnitude_bias
    if not _serves(*tensors):
        return definition(*tensors)
    operands = tuple(
        dispatch.materialize(tensor, "an operand") for tensor in (as_rows(product), *tensors[1:])
    )
    function = _Gated.apply if dispatch.is_differentiated(*tensors) else _Gated.forward
    values, opened, totals = function(*operands)
    shape = product.shape[:-1]
    return in_shape_of(product, values), in_shape_of(product, opened), totals.view(shape)


def definition(product: Tensor, gate_bias: Tensor, scale: Tensor, magnitude_bias: Tensor) -> Gated:
    gate = product + gate_bias
    magnitude = (product * scale + magnitude_bias).relu()
    opened = gate.relu()
    return torch.where(gate <= 0, 0, magnitude), opened, upcast(opened).sum(-1)


def _serves(product: Tensor, *parameters: Tensor) -> bool:
    tensors = product, *parameters
    if dispatch.is_traced(*tensors) or dispatch.is_in_functorch() or product.numel() == 0:
        return False
    if dispatch.is_transformed(*tensors) or any(t.dtype != torch.float32 for t in tensors):
        return False
    return backend.select(product.device, product.dtype) == "cpp"


class _Gated(KernelFunction):
    @staticmethod
    def forward(*operands: Tensor) -> Gated:
        return backend.implementation("jumprelu", "cpp").gated(*operands)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [grad for grad in grads if grad is not None]
        operands = ctx.saved_tensors
        if not given:
            return (None,) * 4
        if torch.is_grad_enabled() or dispatch.is_transformed(*given) or dispatch.is_traced(*given):
            return tuple(connected(_defined_gradients(grads, *operands), (*given, *operands)))
        cpp = backend.implementation("jumprelu", "cpp")
        dense = [None if g is None else dispatch.materialize(g, "the gradient") for g in grads]
        gradients: tuple[Tensor, ...] = cpp.gated_backward(dense, *operands)
        return gradients


def _defined_gradients(
    grads: tuple[Tensor | None, ...],
    product: Tensor,
    gate_bias: Tensor,
    scale: Tensor,
    magnitude_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none = torch.zeros_like(product)
    by_values, by_opened, by_totals = (none if grad is None else grad for grad in grads)
    if by_totals is not none:
        by_totals = by_totals[:, None]
    is_off = product + gate_bias <= 0
    is_zero = is_off | (product * scale + magnitude_bias <= 0)
    by_gate = torch.where(is_off, 0, by_opened + by_totals)
    by_magnitude = torch.where(is_zero, 0, by_values)
    return (
        by_gate + by_magnitude * scale,
        by_gate.sum(0),
        (by_magnitude * product).sum(0),
        by_magnitude.sum(0),
    )
