"""JumpReLU codes, a threshold a latent: checks and autograd.

linear_act computes the product. What follows it is a pass over the pre-activations, and one in
backward. A trace records the definition, whose operators a compiler fuses into such passes.

A backend module has two functions, on pre-activations ``[B, L]`` and thresholds ``[L]``:

``forward(preactivation, threshold, counted) -> (values, active)``
    both ``[B, L]``; where ``counted``, the second is the number of active latents of each row
    instead, ``[B]`` in float32.
``backward(grad_values, grad_active, preactivation, threshold, bandwidth, estimator,
threshold_needed) -> (grad_preactivation, grad_threshold or None)``
    gradients of any strides, ``[B, L]``.

``cpp`` and ``triton`` have ``active_latents(values) -> bool [L]``, too.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.jumprelu import eager
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.public import result
from aefast.ops.topk.op import as_rows, in_shape_of


@result
class JumpReLUCode(NamedTuple):
    """A dense code, and which of its latents are active.

    Attributes:
        values: ``[..., L]``.
        active: ``[..., L]``, of the same dtype: 1 where a latent is active, else 0.
    """

    values: Tensor
    active: Tensor


ESTIMATORS = ("rectangle", "tanh")


def check_of_latents(parameter: Tensor, name: str, weight: Tensor, x: Tensor) -> None:
    """Check a parameter ``[L]``."""
    checks.check_like(parameter, name, x, "x")
    checks.check_tensor(weight, "weight")
    if parameter.shape != weight.shape[:1]:
        raise ValueError(
            f"{name} has shape {list(parameter.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes {list(weight.shape[:1])}"
        )


def jumprelu(
    preactivation: Tensor, threshold: Tensor, bandwidth: float, estimator: str
) -> JumpReLUCode:
    """The code of pre-activations ``[..., L]``."""
    name = _kernels(preactivation, threshold)
    if name is None:
        return JumpReLUCode(*eager.jumprelu(preactivation, threshold, bandwidth, estimator))
    code = _run(as_rows(preactivation), threshold, bandwidth, estimator, name, False)
    return JumpReLUCode(*(in_shape_of(preactivation, part) for part in code))


def counted(
    preactivation: Tensor, threshold: Tensor, bandwidth: float, estimator: str
) -> tuple[Tensor, Tensor]:
    """The values of pre-activations ``[..., L]``, and how many are active, ``[...]``, in float32 at
    least: a half precision does not count so far."""
    name = _kernels(preactivation, threshold)
    if name is None:
        values, active = eager.jumprelu(preactivation, threshold, bandwidth, estimator)
        return values, upcast(active).sum(-1)
    values, count = _run(as_rows(preactivation), threshold, bandwidth, estimator, name, True)
    return in_shape_of(preactivation, values), count.view(preactivation.shape[:-1])


@torch.no_grad()
def active_latents(values: Tensor) -> Tensor:
    """bool ``[L]``: the latents that some row of values ``[..., L]`` has above 0."""
    rows = as_rows(values)
    name = _kernels(rows, rows)
    if name in ("cpp", "triton"):
        return backend.implementation("jumprelu", name).active_latents(
            dispatch.materialize(rows, "values")
        )
    return (rows > 0).any(0)


def _kernels(preactivation: Tensor, threshold: Tensor) -> str | None:
    """The backend that serves; None for the definition."""
    tensors = preactivation, threshold
    if dispatch.is_traced(*tensors) or preactivation.numel() == 0:
        return None
    name = backend.select(preactivation.device, preactivation.dtype)
    return None if name == "eager" or dispatch.is_transformed(*tensors) else name


def _run(preactivation: Tensor, threshold: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    """The kernel's pass; ``settings`` are those of :meth:`_JumpReLU.forward`."""
    is_differentiated = dispatch.is_differentiated(preactivation, threshold)
    function = _JumpReLU.apply if is_differentiated else _JumpReLU.forward
    return function(preactivation, threshold, *settings)


class _JumpReLU(KernelFunction):
    @staticmethod
    def forward(
        preactivation: Tensor,
        threshold: Tensor,
        bandwidth: float,
        estimator: str,
        name: str,
        is_counted: bool,
    ) -> tuple[Tensor, Tensor]:
        preactivation = dispatch.materialize(preactivation, "the pre-activation")
        threshold = dispatch.materialize(threshold, "threshold")
        kernels = backend.implementation("jumprelu", name)
        return kernels.forward(preactivation, threshold, is_counted)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        preactivation, threshold, ctx.bandwidth, ctx.estimator, ctx.name, ctx.is_counted = inputs
        ctx.save_for_backward(preactivation, threshold)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Context, grad_values: Tensor | None, grad_active: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_values is None and grad_active is None:
            return (None,) * 6
        preactivation, threshold = ctx.saved_tensors
        if grad_active is not None and ctx.is_counted:
            grad_active = grad_active[:, None]
        grads = [
            preactivation.new_zeros(()) if grad is None else grad.to(preactivation.dtype)
            for grad in (grad_values, grad_active)
        ]
        by_values, by_active = (grad.expand_as(preactivation) for grad in grads)
        operands = by_values, by_active, preactivation, threshold
        gradients: Any
        if torch.is_grad_enabled() or dispatch.is_transformed(*grads) or dispatch.is_traced(*grads):
            gradients = eager.backward(*operands, ctx.bandwidth, ctx.estimator)
            gradients = connected(gradients, operands)
        else:
            kernels = backend.implementation("jumprelu", ctx.name)
            gradients = kernels.backward(
                dispatch.materialize(by_values, "the incoming gradient"),
                dispatch.materialize(by_active, "the incoming gradient"),
                dispatch.materialize(preactivation, "the pre-activation"),
                dispatch.materialize(threshold, "threshold"),
                ctx.bandwidth,
                ctx.estimator,
                ctx.needs_input_grad[1],
            )
        return *gradients, None, None, None, None
