"""Gated codes: a gate says which latents are active, their magnitude how much. ::

    gate = z + b,    magnitude = relu(s z + m),    opened = relu(gate)
    values = magnitude where gate > 0, else 0

A pass over the products z, and one in backward; on a CPU in float32, else PyTorch's operators.

A backend module has two functions, on products ``[B, L]`` of any strides and parameters ``[L]``:

``gated(product, gate_bias, scale, magnitude_bias) -> (values, opened, totals)``
    ``[B, L]`` twice and, in float32, ``[B]``.
``gated_backward(grads, product, gate_bias, scale, magnitude_bias) -> gradients``
    of the operands. ``grads`` are those of the three results, of any strides, or None.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.public import result
from aefast.ops.topk.op import as_rows, in_shape_of

Gated = tuple[Tensor, Tensor, Tensor]


@result
class GatedCode(NamedTuple):
    """A dense code, and what opens its gates.

    Attributes:
        values: ``[..., L]``.
        opened: ``[..., L]``: 0 where a gate is shut.
    """

    values: Tensor
    opened: Tensor


def gated(product: Tensor, gate_bias: Tensor, scale: Tensor, magnitude_bias: Tensor) -> Gated:
    """The values and what opens the gates, of products ``[..., L]``, and the sum ``[...]`` of what
    opens those of a row, in float32 at least. The parameters are ``[L]``."""
    # PyTorch's operators do so, too, under autocast.
    product = product.to(torch.promote_types(product.dtype, gate_bias.dtype))
    tensors = product, gate_bias, scale, magnitude_bias
    name = _kernels(*tensors)
    if name is None:
        return definition(*tensors)
    operands = tuple(
        dispatch.materialize(tensor, "an operand") for tensor in (as_rows(product), *tensors[1:])
    )
    function = _Gated.apply if dispatch.is_differentiated(*tensors) else _Gated.forward
    values, opened, totals = function(name, *operands)
    shape = product.shape[:-1]
    return in_shape_of(product, values), in_shape_of(product, opened), totals.view(shape)


def definition(product: Tensor, gate_bias: Tensor, scale: Tensor, magnitude_bias: Tensor) -> Gated:
    gate = product + gate_bias
    magnitude = (product * scale + magnitude_bias).relu()
    opened = gate.relu()
    return torch.where(gate <= 0, 0, magnitude), opened, upcast(opened).sum(-1)


def _kernels(product: Tensor, *parameters: Tensor) -> str | None:
    """The backend that serves; None for the definition."""
    tensors = product, *parameters
    if dispatch.is_traced(*tensors) or dispatch.is_in_functorch() or product.numel() == 0:
        return None
    if dispatch.is_transformed(*tensors) or any(t.dtype != product.dtype for t in parameters):
        return None
    name = backend.select(product.device, product.dtype)
    # On a CPU a pass over copies in float32 takes as long as the half precision's operators.
    is_served = name == "triton" or product.dtype == torch.float32
    return name if name != "eager" and is_served else None


class _Gated(KernelFunction):
    @staticmethod
    def forward(name: str, *operands: Tensor) -> Gated:
        return backend.implementation("jumprelu", name).gated(*operands)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.name, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [grad for grad in grads if grad is not None]
        operands = ctx.saved_tensors
        if not given:
            return (None,) * 5
        if torch.is_grad_enabled() or dispatch.is_transformed(*given) or dispatch.is_traced(*given):
            gradients = connected(_defined_gradients(grads, *operands), (*given, *operands))
            return None, *gradients
        kernels = backend.implementation("jumprelu", ctx.name)
        dense = [None if g is None else dispatch.materialize(g, "the gradient") for g in grads]
        return None, *kernels.gated_backward(dense, *operands)


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
