"""A step's loss as one autograd node over one call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import contract
from aefast.ops.shared.autograd import KernelFunction, is_one
from aefast.step import eager
from aefast.step.plan import Plan

# Where the vendor's product is faster than ours, one call wins as long as the calls that it saves
# take longer than the products: below this many multiplications in a layer.
MOST_PRODUCTS = 1 << 24


def refusal(plan: Plan, parameters: Sequence[Tensor], x: Tensor) -> str | None:
    """Why the kernels do not serve this call; None where they do."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return f"the step takes float32 on a CPU, not {contract.dtype_name(x)} on {x.device.type}"
    if backend.select(x.device, x.dtype) != "cpp":
        return f"backend {backend.select(x.device, x.dtype)!r} serves, and not the C++ kernels"
    if contract.is_traced(x, *parameters) or contract.is_in_functorch():
        return "the call is traced or transformed"
    if contract.autocast_dtype(x.device) is not None:
        return "autocast is on"
    if x.requires_grad:
        return "x requires a gradient"
    if x.dim() != 2 or x.shape[1] != plan.encoder[0].inputs or x.stride(1) != 1 or not len(x):
        return "x is no dense matrix [B, D] of one row or more"
    if not all(p.dtype == torch.float32 and p.is_contiguous() for p in parameters):
        return "a parameter is not float32, or not contiguous"
    if not _outpaces_torch(plan, len(x)):
        return "the vendor's products are faster on this processor"
    return None


def _outpaces_torch(plan: Plan, rows: int) -> bool:
    from aefast.ops.shared.cpp import own_precision

    return own_precision(torch.float32) is not None or rows * plan.largest_product <= MOST_PRODUCTS


def step_loss(
    plan: Plan, parameters: Sequence[Tensor], x: Tensor, seed: int, row_offset: int = 0
) -> Tensor:
    """The loss of x ``[B, D]``, a scalar; call it where :func:`refusal` is None."""
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters):
        return _StepLoss.apply(plan, x, seed, row_offset, [], *parameters)
    return torch.tensor(_run(plan, parameters, x, seed, row_offset, ()), dtype=torch.float32)


def _run(
    plan: Plan,
    parameters: Sequence[Tensor],
    x: Tensor,
    seed: int,
    row_offset: int,
    gradients: Sequence[Tensor],
) -> float:
    from aefast.step import cpp

    return cpp.loss_and_gradients(plan, parameters, x, seed, row_offset, gradients)


class _StepLoss(KernelFunction):
    """The gradients are made along with the loss, and given away in backward.

    A second backward, through a graph that was retained, makes them anew.
    """

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        plan, x, seed, row_offset, ready, *parameters = arguments
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        loss = _run(plan, parameters, x, seed, row_offset, gradients)
        ready.append(gradients)
        return torch.tensor(loss, dtype=torch.float32, device="cpu")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plan, x, ctx.seed, ctx.row_offset, ctx.ready, *parameters = inputs
        ctx.save_for_backward(x, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled() or contract.is_traced(grad):
            gradients = _differentiable_gradients(ctx, x, parameters, grad)
        else:
            if not ctx.ready:
                ctx.ready.append([torch.empty_like(parameter) for parameter in parameters])
                _run(ctx.plan, parameters, x, ctx.seed, ctx.row_offset, ctx.ready[0])
            gradients = ctx.ready.pop()
            if not is_one(grad):
                torch._foreach_mul_(gradients, grad)
        needed = zip(gradients, ctx.needs_input_grad[5:], strict=True)
        return *(None,) * 5, *(gradient if need else None for gradient, need in needed)


def _differentiable_gradients(
    ctx: Any, x: Tensor, parameters: Sequence[Tensor], grad: Tensor
) -> list[Tensor | None]:
    """The definition's gradients, times the incoming one."""
    needed = ctx.needs_input_grad[5:]
    asked = [parameter for parameter, need in zip(parameters, needed, strict=True) if need]
    with torch.enable_grad():
        loss = eager.loss(ctx.plan, parameters, x, ctx.seed, ctx.row_offset)
        gradients = iter(
            torch.autograd.grad(loss, asked, grad, create_graph=True, materialize_grads=True)
        )
    return [next(gradients) if need else None for need in needed]
