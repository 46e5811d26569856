"""A training step's loss as one autograd node over one call of a kernel."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import (
    Context,
    aliases_of,
    check_not_freed,
    check_versions,
    connected,
    versions_of,
)
from aefast.ops.shared.precision import LARGEST, in_float32
from aefast.random import CPU
from aefast.torch_private import scale_finite


class StepCall(Protocol):
    """A call of a step's kernel.

    Attributes:
        argument: the name of the rows among the loss's arguments, for a message.
        is_repeatable: whether the kernel would give the same once more.
        parameters: of the model.
        inputs: all that a second backward pass reads.
    """

    @property
    def argument(self) -> str: ...

    @property
    def is_repeatable(self) -> bool: ...

    @property
    def parameters(self) -> Sequence[Tensor]: ...

    @property
    def inputs(self) -> list[Tensor]: ...

    def run(self, gradients: Sequence[Tensor]) -> float:
        """The loss. Writes the gradients by the parameters, tensors of their shapes, if any."""

    def definition(self, parameters: Sequence[Tensor]) -> Tensor:
        """The loss in plain PyTorch, as a function of the parameters."""


def loss_of(call: StepCall) -> Tensor:
    """The loss, a scalar, which is differentiable where gradients are enabled."""
    if torch.is_grad_enabled():
        return _apply(call, *call.parameters)
    return _loss(call, ())


def _loss(call: StepCall, gradients: Sequence[Tensor]) -> Tensor:
    loss = call.run(gradients)
    loss = loss if abs(loss) <= LARGEST else in_float32(loss)
    return torch.scalar_tensor(loss, dtype=torch.float32, device=CPU)


class StepLoss(Function):
    """The loss. The forward pass computes the gradients as well; the backward pass returns them.

    What a second backward pass reads is held by reference with its versions: ``save_for_backward``
    takes as long as the arithmetic of a small model. Autograd drops the gradients that nothing
    needs.
    """

    @staticmethod
    def forward(ctx: Context, call: StepCall, *parameters: Tensor) -> Tensor:
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        loss = _loss(call, gradients)
        ctx.call, ctx.gradients = call, gradients
        ctx.versions = versions_of(call.inputs)
        return loss

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        if dispatch.is_ordinary_one(grad) and ctx.gradients:
            gradients = ctx.gradients
            ctx.gradients = None
            return None, *gradients
        with dispatch.without_autocast(grad.device):
            return None, *_other_gradients(ctx, grad)


# Function.apply binds default arguments, which takes 25 us. Under a transform of torch.func, which
# it knows, no kernel takes a step.
_apply = super(Function, StepLoss).apply


def _other_gradients(ctx: Context, grad: Tensor) -> Sequence[Tensor | None]:
    """The gradients of a backward pass that is not the first, that is differentiated itself, or
    whose incoming gradient is not 1.

    The definition is differentiated where the kernel does not repeat what it computed, and where a
    small incoming gradient keeps finite what in the forward pass was not.
    """
    check_not_freed(ctx)  # the first pass alone finds gradients, and takes them
    call: StepCall = ctx.call
    gradients, ctx.gradients = ctx.gradients, None
    if torch.is_grad_enabled() or dispatch.is_intercepted(grad):
        return _defined_gradients(ctx, grad, True)
    if not gradients:
        if not call.is_repeatable:
            return _defined_gradients(ctx, grad, False)
        check_versions(call.inputs, ctx.versions, call.argument)
        gradients = [torch.empty_like(parameter) for parameter in call.parameters]
        call.run(gradients)
    is_finite = grad.item() == 1 or scale_finite(gradients, grad)
    if not is_finite and versions_of(call.inputs) == ctx.versions:
        return _defined_gradients(ctx, grad, False)
    return gradients


def _defined_gradients(ctx: Context, grad: Tensor, create_graph: bool) -> Sequence[Tensor | None]:
    """The definition's gradients, from the incoming one down."""
    call: StepCall = ctx.call
    check_versions(call.inputs, ctx.versions, call.argument)
    needs_grad = ctx.needs_input_grad[1:]
    with torch.enable_grad():
        aliases = aliases_of(call.parameters)
        differentiated = [alias for alias, need in zip(aliases, needs_grad, strict=True) if need]
        gradients = iter(
            torch.autograd.grad(
                call.definition(aliases),
                differentiated,
                grad,
                create_graph=create_graph,
                materialize_grads=True,
            )
        )
    needed_gradients = [next(gradients) if need else None for need in needs_grad]
    return connected(needed_gradients, (grad, *call.parameters))
