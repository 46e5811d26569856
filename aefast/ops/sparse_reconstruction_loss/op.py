"""The squared error of a sparse code's reconstruction: checks, autograd and the registered op.

A backend module has ``sparse_reconstruction_loss(values, indices, weight, bias, target) ->
(total, residual, slopes)``: the summed square, the residual ``[B, D]`` and its products with the
active latents' decoder rows ``[B, k]``, in float32 or float64. The gradients are computed from
these.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.registered import registered
from aefast.ops.sparse_reconstruction_loss import eager
from aefast.ops.topk import products
from aefast.ops.topk.op import as_rows, check_code, in_shape_of

Loss = tuple[Tensor, Tensor]
Gradients = tuple[Tensor | None, ...]


def check_target(target: Tensor, values: Tensor, weight: Tensor) -> None:
    checks.check_like(target, "target", values, "values")
    shape = [*values.shape[:-1], weight.shape[1]]
    if list(target.shape) != shape:
        raise ValueError(
            f"target has shape {list(target.shape)}; with values's shape {list(values.shape)} and "
            f"weight's {list(weight.shape)} it takes {shape}"
        )


def loss_and_residual(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> Loss:
    """The loss of codes ``[..., k]``, and the residual ``[..., D]``, which has no gradient."""
    checks.check_tensor(values, "values")
    if dispatch.autocast_dtype(values.device) is not None:  # as torch's mse_loss
        operands: Any = values, weight, bias, target
        values, weight, bias, target = (
            upcast(operand) if isinstance(operand, Tensor) else operand for operand in operands
        )
    check_code(values, indices, weight, bias)
    check_target(target, values, weight)
    code = as_rows(values), as_rows(indices)
    with dispatch.without_autocast(values.device):
        loss, residual = _of_rows(*code, weight, bias, as_rows(target))
    return loss, in_shape_of(target, residual)


def _of_rows(*inputs: Any) -> Loss:
    tensors = [tensor for tensor in inputs if tensor is not None]
    if dispatch.is_traced(*tensors):
        if dispatch.is_defined_in_trace(inputs[0]):
            return _definition(*inputs)
        return torch.ops.aefast.sparse_reconstruction_loss(*inputs)[:2]
    chosen = backend.select(inputs[0].device, inputs[0].dtype)
    if products.serves_definition(chosen, tensors) or any(map(dispatch.is_transformed, tensors)):
        return _definition(*inputs)
    if dispatch.is_differentiated(*tensors):
        return _SparseReconstructionLoss.apply(*inputs)[:2]
    return _run(*inputs)[:2]


def _definition(*inputs: Any) -> Loss:
    residual = eager.residual(*inputs)
    return residual.square().mean().to(inputs[0].dtype), residual.detach()


def _run(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the residual and the slopes."""
    values, name = inputs[0], "sparse_reconstruction_loss"
    total, residual, slopes = products.run_kernel(name, *inputs, op=name)
    return (total / residual.numel()).to(values.dtype), residual, slopes


def _gradients(
    needs: Any, saved: tuple[Any, ...], residual: Tensor, slopes: Tensor, factor: Tensor
) -> Gradients:
    """The loss's gradients; ``factor`` is 2 / elements times the incoming gradient."""
    values, indices, weight = saved
    of_weight = None
    if needs[2]:
        code = factor * upcast(values)
        of_weight = products.latent_sums(code, indices, residual, len(weight))[0]
    gradients = (
        factor * slopes if needs[0] else None,
        None,
        of_weight,
        factor * residual.sum(0) if needs[3] else None,
        -factor * residual if needs[4] else None,
    )
    return tuple(None if g is None else g.to(values.dtype) for g in gradients)


def _backward(ctx: Context, grad: Tensor, *_: Any) -> Gradients:
    values, indices, weight, bias, target, residual, slopes = ctx.saved_tensors
    if torch.is_grad_enabled():  # to be differentiated again
        latents = upcast(weight)
        start = None if bias is None else upcast(bias)
        decoded = products.sparse_decode(upcast(values), indices, latents, start)
        residual = decoded - upcast(target)
        slopes = products.sampled_product(residual, latents, indices)
    factor = upcast(grad) * (2 / max(residual.numel(), 1))  # no row: no gradient
    code = values, indices, weight
    return _gradients(ctx.needs_input_grad, code, residual, slopes, factor)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, residual, slopes = output
    ctx.mark_non_differentiable(residual, slopes)
    ctx.save_for_backward(*inputs, residual, slopes)


class _SparseReconstructionLoss(KernelFunction):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return _run(*inputs)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)


@registered("aefast::sparse_reconstruction_loss")
def _registered(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    check_code(values, indices, weight, bias)
    check_target(target, values, weight)
    if values.dim() != 2:
        raise ValueError(f"values has shape {list(values.shape)}; the registered op takes [B, k]")
    return _run(values, indices, weight, bias, target)


@_registered.register_fake
def _(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(values.dtype, torch.float32)
    residual = values.new_empty(values.shape[0], weight.shape[1], dtype=dtype)
    return values.new_empty(()), residual, values.new_empty(values.shape, dtype=dtype)


_registered.register_autograd(_backward, setup_context=_setup_context)
