"""A Boltzmann machine's contrastive divergence, as one autograd node and one C++ call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import (
    Context,
    KernelFunction,
    aliases_of,
    check_versions,
    is_one,
    versions_of,
)
from aefast.ops.shared.precision import LARGEST, in_float32
from aefast.ops.shared.product_routes import takes_matrix_units
from aefast.step import machine_eager
from aefast.step.machine_plan import MachinePlan
from aefast.step.parameters import unsuitable, unsuitable_call, unsuitable_rows
from aefast.torch_private import scale_finite


def refusal(
    plan: MachinePlan, parameters: Sequence[Tensor], x: Tensor, chain: Tensor | None = None
) -> str | None:
    """Why the kernels do not serve this call; None where they do."""
    reason = unsuitable_call(x) or unsuitable_rows(x, plan.visible)
    if reason is not None:
        return reason
    if takes_matrix_units():
        return "at this precision the products of the matrix units are faster"
    held = parameters if chain is None else (*parameters, chain)
    reason = unsuitable(held, "a parameter or the chains' state")
    if reason is None and chain is not None and chain.dim() != 2:
        return "the chains are no matrix"
    return reason


def machine_loss(
    plan: MachinePlan,
    parameters: Sequence[Tensor],
    x: Tensor,
    chain: Tensor | None,
    seed: int,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """The loss of x ``[B, D]``, a scalar, and the chains' last visible states.

    Call it only if :func:`refusal` returned None. ``chain`` ``[C, D]`` holds persistent chains,
    float32 and contiguous; without it the chains start at x.
    """
    end = torch.FloatTensor(*x.shape) if chain is None else torch.empty_like(chain)
    call = plan, x, chain, end, seed, row_offset
    if dispatch.is_differentiated(*parameters):
        return _MachineLoss.apply(call, *parameters), end
    return _run(call, parameters, ()), end


# A call of the kernels: the plan, x, the chains' start and end, seed, row offset.
Call = tuple[MachinePlan, Tensor, Tensor | None, Tensor, int, int]


def _run(call: Call, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    from aefast.step import machine_cpp

    plan, x, chain, end, seed, row_offset = call
    loss = machine_cpp.loss_and_gradients(
        plan, parameters, x, chain, end, seed, row_offset, gradients
    )
    return x.new_full((), loss if abs(loss) <= LARGEST else in_float32(loss))


class _MachineLoss(KernelFunction):
    """The loss. The forward pass computes the gradients as well; the backward pass returns them.

    A second backward pass, or one with create_graph, differentiates the definition at the chains'
    last states. Its inputs are held by reference with their versions, which is faster than
    ``save_for_backward``; nearly every step has the first backward pass alone.
    """

    @staticmethod
    def forward(ctx: Context, call: Call, *parameters: Tensor) -> Tensor:
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        loss = _run(call, parameters, gradients)
        ctx.call, ctx.parameters, ctx.gradients = call, parameters, gradients
        ctx.versions = versions_of(_tensors_of(call, parameters))
        return loss

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        is_defined = torch.is_grad_enabled() or dispatch.is_transformed(grad)
        held = _tensors_of(ctx.call, ctx.parameters)
        gradients: Sequence[Tensor | None] | None = None
        if ctx.gradients and not is_defined and not dispatch.is_traced(grad):
            gradients = scaled = ctx.gradients
            ctx.gradients = None
            # A small incoming gradient may keep finite what the forward pass could not.
            if not is_one(grad) and not scale_finite(scaled, grad):
                gradients = scaled if versions_of(held) != ctx.versions else None
        if gradients is None:
            check_versions(held, ctx.versions, "visible")
            plan, x, _, end, *_ = ctx.call
            gradients = _defined_gradients(plan, ctx.parameters, x, end, grad)
        needs_grad = ctx.needs_input_grad[1:]
        return None, *(g if need else None for g, need in zip(gradients, needs_grad, strict=True))


def _tensors_of(call: Call, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that a second backward pass reads."""
    _, x, _, end, *_ = call
    return [x, end, *parameters]


def _defined_gradients(
    plan: MachinePlan, parameters: Sequence[Tensor], x: Tensor, end: Tensor, grad: Tensor
) -> list[Tensor | None]:
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = aliases_of(parameters)
        loss = machine_eager.loss_between(plan, aliases, x, end)
        differentiated = [alias for alias in aliases if alias.requires_grad]
        computed = iter(torch.autograd.grad(loss, differentiated, grad, create_graph=create_graph))
    return [next(computed) if parameter.requires_grad else None for parameter in parameters]
