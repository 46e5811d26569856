"""A linear layer with its activation: checks, autograd and the registered ops.

A backend module has three functions, on ``x [B, D]`` and ``weight [H, D]``:

``pays(x, weight) -> bool``
    whether the layer, forward and backward, is quicker than torch's operators.
``forward(x, weight, bias, activation, keep_preactivation) -> (output, preactivation or None)``
    both ``[B, H]``; the pre-activation where it is asked for.
``backward(grad, x, weight, saved, activation, bias_needed) -> (grad_x, grad_weight, grad_bias)``
    of which only those are made that are needed, the others None: weight is None where x's is not,
    and x where weight's is not. ``saved`` is the pre-activation for the activations in
    ``FROM_PREACTIVATION``, None for the identity, and the output for all others, whose derivative
    the output tells.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.linear_act import eager
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected
from aefast.ops.shared.registered import registered

ACTIVATIONS = tuple(eager.ACTIVATIONS)
FROM_PREACTIVATION = ("gelu", "silu")


def run(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """A layer whose activation is known: casts, checks of the tensors, and dispatch."""
    x, weight, bias = dispatch.cast_operands(x, weight, bias)
    check_tensors(x, weight, bias)
    if dispatch.is_traced(x, weight, bias):
        if dispatch.is_defined_in_trace(x):
            return eager.linear_act(x, weight, bias, activation)
        rows = math.prod(x.shape[:-1])
        output = torch.ops.aefast.linear_act(x.reshape(rows, x.shape[-1]), weight, bias, activation)
        return output[0].reshape(*x.shape[:-1], weight.shape[0])
    name = backend.select(x.device, x.dtype)
    if 0 in (x.numel(), weight.numel()) or dispatch.is_transformed(x) or not _pays(x, weight, name):
        return eager.linear_act(x, weight, bias, activation)
    if x.dim() == 2:
        return _run_rows(x, weight, bias, activation, name)
    output = _run_rows(x.reshape(-1, x.shape[-1]), weight, bias, activation, name)
    return output.reshape(*x.shape[:-1], weight.shape[0])


def _pays(x: Tensor, weight: Tensor, name: str) -> bool:
    """Whether a backend's kernels are quicker than the definition, or were asked for by name."""
    if name == "eager" or backend.is_forced():
        return name != "eager"
    pays: bool = backend.implementation("linear_act", name).pays(x, weight)
    return pays


def check_tensors(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    checks.check_like(weight, "weight", x, "x")
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {list(weight.shape)}; it takes [H, D]")
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x has shape {list(x.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes [..., {weight.shape[1]}]"
        )
    if bias is None:
        return
    checks.check_like(bias, "bias", x, "x")
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {list(bias.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes [{weight.shape[0]}]"
        )


def _run_rows(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, name: str) -> Tensor:
    if dispatch.is_differentiated(x, weight, bias):
        return _LinearAct.apply(x, weight, bias, activation, name)[0]
    return forward(x, weight, bias, activation, name, False)[0]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    name: str,
    keep_preactivation: bool,
) -> tuple[Tensor, Tensor | None]:
    x, weight = dispatch.materialize(x, "x"), dispatch.materialize(weight, "weight")
    bias = None if bias is None else dispatch.materialize(bias, "bias")
    return backend.implementation("linear_act", name).forward(
        x, weight, bias, activation, keep_preactivation
    )


def backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: Tensor | None,
    activation: str,
    name: str,
    bias_needed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    grad = dispatch.materialize(grad, "the incoming gradient")
    x = None if x is None else dispatch.materialize(x, "x")
    weight = None if weight is None else dispatch.materialize(weight, "weight")
    return backend.implementation("linear_act", name).backward(
        grad, x, weight, saved, activation, bias_needed
    )


def saved_for_backward(
    activation: str, output: Tensor, preactivation: Tensor | None
) -> Tensor | None:
    """The one of forward's results that backward reads."""
    if activation == "identity":
        return None
    return preactivation if activation in FROM_PREACTIVATION else output


class _LinearAct(KernelFunction):
    """Saves what PyTorch's linear layer and activation do: x for the weight's gradient, the weight
    for x's, and what tells the activation's derivative. The rest may be changed in place.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, name: str
    ) -> tuple[Tensor, Tensor | None]:
        return forward(x, weight, bias, activation, name, activation in FROM_PREACTIVATION)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        x, weight, _, ctx.activation, ctx.name = inputs
        saved = saved_for_backward(ctx.activation, *outputs)
        x_needed, weight_needed, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if weight_needed else None, weight if x_needed else None, saved)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Context, grad: Tensor | None, grad_preactivation: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """A second backward pass has a gradient of the pre-activation, too."""
        if grad is None and grad_preactivation is None:
            return (None,) * 5
        x, weight, saved = ctx.saved_tensors
        bias_needed = ctx.needs_input_grad[2]
        if grad is None or grad_preactivation is not None or is_defined(grad):
            gradients = _defined_gradients(ctx, grad, grad_preactivation, x, weight, saved)
        else:
            gradients = backward(grad, x, weight, saved, ctx.activation, ctx.name, bias_needed)
        return *gradients, None, None


def is_defined(grad: Tensor) -> bool:
    """Whether the gradient is to be differentiated again, batched or traced: the definition's
    can."""
    return torch.is_grad_enabled() or dispatch.is_transformed(grad) or dispatch.is_traced(grad)


def _defined_gradients(
    ctx: Context,
    grad: Tensor | None,
    grad_preactivation: Tensor | None,
    x: Tensor | None,
    weight: Tensor | None,
    saved: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The definition's gradients, of which each depends on what was saved as PyTorch's does."""
    total: Any = grad_preactivation
    if grad is not None:
        of_output = eager.activation_backward_of_saved(ctx.activation, grad, saved)
        total = of_output if total is None else of_output + total
    (total,) = connected([total], (grad, grad_preactivation, saved))
    return (
        None if weight is None else total @ weight,
        None if x is None else total.t() @ x,
        total.sum(0) if ctx.needs_input_grad[2] else None,
    )


@registered("aefast::linear_act")
def _registered(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor]:
    checks.check_choice(activation, "activation", ACTIVATIONS)
    checks.check_tensor(x, "x")
    check_tensors(x, weight, bias)
    if x.dim() != 2:
        raise ValueError(f"x has shape {list(x.shape)}; the registered op takes [B, D]")
    name = backend.select(x.device, x.dtype)
    keep_preactivation = activation in FROM_PREACTIVATION
    if name == "eager" or 0 in (x.numel(), weight.numel()):
        preactivation = eager.linear_act(x, weight, bias, "identity")
        output = eager.ACTIVATIONS[activation](preactivation)
        return output, preactivation if keep_preactivation else x.new_empty(0)
    output, saved = forward(x, weight, bias, activation, name, keep_preactivation)
    return output, x.new_empty(0) if saved is None else saved


@_registered.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
    output = x.new_empty(x.shape[0], weight.shape[0])
    keep_preactivation = activation in FROM_PREACTIVATION
    return output, torch.empty_like(output) if keep_preactivation else x.new_empty(0)


@registered("aefast::linear_act_backward")
def _registered_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    saved: Tensor | None,
    activation: str,
    needs_grad: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    check_tensors(x, weight, bias)
    checks.check_like(grad, "grad", x, "x")
    if x.dim() != 2 or grad.shape != (x.shape[0], weight.shape[0]):
        raise ValueError(
            f"grad has shape {list(grad.shape)}; with x's {list(x.shape)} and weight's "
            f"{list(weight.shape)} it takes [B, H]"
        )
    name = backend.select(x.device, x.dtype)
    gradients: tuple[Tensor | None, ...]
    if name == "eager" or 0 in (x.numel(), weight.numel()):
        gradients = eager.backward(grad, x, weight, bias, activation)
    else:
        x_needed, weight_needed, bias_needed = needs_grad
        gradients = backward(
            grad,
            x if weight_needed else None,
            weight if x_needed else None,
            saved,
            activation,
            name,
            bias_needed,
        )
    grad_x, grad_weight, grad_bias = (
        x.new_empty(0) if gradient is None or not need else gradient
        for gradient, need in zip(gradients, needs_grad, strict=True)
    )
    return grad_x, grad_weight, grad_bias


@_registered_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    saved: Tensor | None,
    activation: str,
    needs_grad: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    grad_x, grad_weight, grad_bias = (
        x.new_empty(shape if need else (0,)) for shape, need in zip(shapes, needs_grad, strict=True)
    )
    return grad_x, grad_weight, grad_bias


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, ctx.activation = inputs
    saved = saved_for_backward(ctx.activation, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, bias, saved)


def _registered_gradients(ctx: Context, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, saved = ctx.saved_tensors
    needs_grad = list(ctx.needs_input_grad[:3])
    gradients: Iterable[Tensor | None]
    if torch.is_grad_enabled():  # they are to be differentiated again
        gradients = eager.backward(grad, x, weight, bias, ctx.activation)
        gradients = connected(gradients, (grad, x, weight, bias))
        return *(g if need else None for g, need in zip(gradients, needs_grad, strict=True)), None
    gradients = torch.ops.aefast.linear_act_backward(
        grad, x, weight, bias, saved, ctx.activation, needs_grad
    )
    return *(g if need else None for g, need in zip(gradients, needs_grad, strict=True)), None


_registered.register_autograd(_registered_gradients, setup_context=_setup_context)
