"""The loss of an encoder-decoder's training step, as one autograd node and one call of the kernels,
which are C++ or numba's.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import (
    Context,
    KernelFunction,
    aliases_of,
    check_versions,
    connected,
    versions_of,
)
from aefast.ops.shared.precision import LARGEST, in_float32
from aefast.ops.shared.product_routes import LEAST_RATIO_OF_STEP, outpaces_vendor
from aefast.step import eager, kernels
from aefast.step.parameters import unsuitable, unsuitable_call, unsuitable_rows
from aefast.step.plan import Plan
from aefast.torch_private import scale_finite

# Where the vendor's matrix product is faster than ours, one call for the whole step is faster only
# for layers of fewer multiplications than this: there the overhead of separate calls costs more
# than the products.
MOST_PRODUCTS = 1 << 24

VENDOR_IS_FASTER = (
    "torch's matrix products of this size are faster on this processor, or it was not measured"
)


def refusal(plan: Plan, parameters: Sequence[Tensor], x: Tensor) -> str | None:
    """Why the kernels do not serve this call; None where they do."""
    return unsuitable_call(x) or unsuitable_memory(plan, parameters, x)


def unsuitable_memory(plan: Plan, parameters: Sequence[Tensor], x: Tensor) -> str | None:
    """Why the kernels do not serve these tensors in a call that they serve."""
    reason = unsuitable_rows(x, plan.encoder[0].inputs) or unsuitable(parameters)
    if reason is not None:
        return reason
    name = backend.select(x.device, x.dtype)
    if name == "numba":
        refused: str | None = kernels(name).refusal(plan, len(x))
        return refused
    return None if _outpaces_torch(plan, len(x)) else VENDOR_IS_FASTER


def _outpaces_torch(plan: Plan, rows: int) -> bool:
    if rows * plan.largest_product <= MOST_PRODUCTS:
        return True
    return outpaces_vendor(plan.largest_product, LEAST_RATIO_OF_STEP)


def _kernels_for(x: Tensor) -> ModuleType:
    return kernels(backend.select(x.device, x.dtype))


def step_loss(
    plan: Plan, parameters: Sequence[Tensor], x: Tensor, seed: int, row_offset: int = 0
) -> Tensor:
    """The loss of x ``[B, D]``, a scalar. Call it only if :func:`refusal` returned None."""
    if torch.is_grad_enabled():
        return _StepLoss.apply(plan, x, seed, row_offset, *parameters)
    return x.new_full((), _run(_kernels_for(x), plan, parameters, x, seed, row_offset, ()))


def _run(
    kernels: ModuleType,
    plan: Plan,
    parameters: Sequence[Tensor],
    x: Tensor,
    seed: int,
    row_offset: int,
    gradients: Sequence[Tensor],
) -> float:
    loss: float = kernels.loss_and_gradients(plan, parameters, x, seed, row_offset, gradients)
    return loss if abs(loss) <= LARGEST else in_float32(loss)


class _StepLoss(KernelFunction):
    """The loss. The forward pass computes the gradients as well; the backward pass returns them.

    A second backward pass, or one with create_graph, computes the loss again from its inputs. These
    are held by reference with their versions: ``save_for_backward`` takes as long as the arithmetic
    of a small model. So does one whose gradients a small incoming gradient keeps finite, where the
    forward pass's were not.
    """

    @staticmethod
    def forward(ctx: Context, *arguments: Any) -> Tensor:
        plan, x, seed, row_offset, *parameters = arguments
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        ctx.kernels = _kernels_for(x)
        loss = x.new_full((), _run(ctx.kernels, plan, parameters, x, seed, row_offset, gradients))
        ctx.call = plan, parameters, x, seed, row_offset
        ctx.versions = versions_of((x, *parameters))
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or dispatch.is_intercepted(grad):
            return None, None, None, None, *_defined_gradients(ctx, grad, True)
        gradients = ctx.gradients or _recomputed_gradients(ctx)
        ctx.gradients = None
        if grad.item() != 1 and not scale_finite(gradients, grad) and _is_unchanged(ctx):
            return None, None, None, None, *_defined_gradients(ctx, grad, False)
        pairs = zip(gradients, ctx.needs_input_grad[4:], strict=True)
        return None, None, None, None, *(gradient if need else None for gradient, need in pairs)


def _recomputed_gradients(ctx: Context) -> list[Tensor]:
    _check_versions(ctx)
    plan, parameters, x, seed, row_offset = ctx.call
    gradients = [torch.empty_like(parameter) for parameter in parameters]
    _run(ctx.kernels, plan, parameters, x, seed, row_offset, gradients)
    return gradients


def _is_unchanged(ctx: Context) -> bool:
    _, parameters, x, *_ = ctx.call
    return versions_of((x, *parameters)) == ctx.versions


def _check_versions(ctx: Context) -> None:
    _, parameters, x, *_ = ctx.call
    check_versions((x, *parameters), ctx.versions, "x")


def _defined_gradients(ctx: Context, grad: Tensor, create_graph: bool) -> list[Tensor | None]:
    """The definition's gradients, from the incoming one down."""
    _check_versions(ctx)
    plan, parameters, x, seed, row_offset = ctx.call
    needs_grad = ctx.needs_input_grad[4:]
    with torch.enable_grad():
        aliases = aliases_of(parameters)
        differentiated = [alias for alias, need in zip(aliases, needs_grad, strict=True) if need]
        loss = eager.loss(plan, aliases, x, seed, row_offset)
        gradients = iter(
            torch.autograd.grad(
                loss, differentiated, grad, create_graph=create_graph, materialize_grads=True
            )
        )
    needed_gradients = [next(gradients) if need else None for need in needs_grad]
    return connected(needed_gradients, (grad, *parameters))
