"""Sparsity penalties of a code: checks, autograd and the registration of their ops.

The gradient of the KL penalty is the same in every row. Forward computes it along with the penalty,
[H] numbers, and backward expands it without writing a batch of them.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.precision import upcast
from aefast.ops.shared.registered import registered
from aefast.ops.sparsity import eager


def check_code(code: Tensor) -> None:
    checks.check_tensor(code, "code")
    if code.dim() == 0:
        raise ValueError("code has shape []; it takes [..., H]")


def run(code: Tensor, target: float | None) -> Tensor:
    """The KL penalty, or without a target the L1 penalty."""
    if dispatch.autocast_dtype(code.device) is not None:
        code = upcast(code)  # losses come out in float32 then, as torch's do
    if dispatch.is_traced(code):
        if dispatch.is_defined_in_trace(code):
            return _defined(code, target)
        if target is None:
            return torch.ops.aefast.l1_sparsity(code)
        number = dispatch.numbers_in_graph(code.device, target)
        return torch.ops.aefast.kl_sparsity(code, target if number is None else 0.0, number)[0]
    name = backend.select(code.device, code.dtype)
    if name == "eager" or code.numel() == 0 or dispatch.is_transformed(code):
        if target is not None:
            _check_activities(code)
        return _defined(code, target)
    if dispatch.is_differentiated(code):
        return (
            _L1Sparsity.apply(code, name)
            if target is None
            else _KLSparsity.apply(code, target, name, [])
        )
    return _run_l1(code, name) if target is None else _run_kl(code, target, name)[0]


def _check_activities(code: Tensor) -> None:
    """On a GPU nothing is checked: reading the result would wait for the device."""
    if code.is_cpu and not dispatch.is_transformed(code):
        eager.check_activities(eager.mean_activities(code.detach()))


def _defined(code: Tensor, target: float | None) -> Tensor:
    return eager.l1_sparsity(code) if target is None else eager.kl_sparsity(code, target)


def _rows(code: Tensor) -> Tensor:
    """The code as a matrix whose rows a kernel reads in order."""
    rows = dispatch.materialize(code, "code")
    if rows.dim() != 2:
        rows = rows.reshape(-1, code.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _run_kl(code: Tensor, target: float, name: str) -> tuple[Tensor, Tensor]:
    """The penalty, and its gradient by any row's code, [H] in float32."""
    kernels = backend.implementation("sparsity", name)
    penalty, slope = kernels.kl_sparsity(_rows(code), target)
    return penalty.to(code.dtype), slope


def _run_l1(code: Tensor, name: str) -> Tensor:
    return backend.implementation("sparsity", name).l1_sparsity(_rows(code)).to(code.dtype)


def _expanded(slope: Tensor, grad: Tensor, code: Tensor) -> Tensor:
    return (slope * grad).to(code.dtype).expand_as(code)


class _KLSparsity(KernelFunction):
    """``saved_slope`` holds the slope between the two passes."""

    @staticmethod
    def forward(code: Tensor, target: float, name: str, saved_slope: list[Tensor]) -> Tensor:
        penalty, slope = _run_kl(code, target, name)
        saved_slope.append(slope)
        return penalty

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        code, ctx.target, _, ctx.saved_slope = inputs
        ctx.save_for_backward(code)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (code,) = ctx.saved_tensors
        if torch.is_grad_enabled() or dispatch.is_traced(grad) or not ctx.saved_slope:
            # It is differentiated again, traced, or under a transform, which copies the list.
            slope = eager.slope(code, ctx.target)
        else:
            slope = ctx.saved_slope[0]
        return _expanded(slope, grad, code), None, None, None


class _L1Sparsity(KernelFunction):
    @staticmethod
    def forward(code: Tensor, name: str) -> Tensor:
        return _run_l1(code, name)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        code, ctx.name = inputs
        ctx.save_for_backward(code)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        (code,) = ctx.saved_tensors
        if torch.is_grad_enabled() or dispatch.is_traced(grad) or dispatch.is_transformed(grad):
            return eager.l1_gradient(code, grad), None
        rows = _rows(code)
        count = rows.shape[0]
        factor = grad.item() / count if grad.is_cpu else grad / count
        gradient = backend.implementation("sparsity", ctx.name).l1_gradient(rows, factor)
        return gradient if code.dim() == 2 else gradient.reshape(code.shape), None


@registered("aefast::kl_sparsity")
def _registered_kl(
    code: Tensor, target: float, number: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The penalty, and its gradient by any row's code. ``number``, where it is a tensor, holds the
    target."""
    target = _target_of(target, number)
    check_code(code)
    checks.check_number(target, "target", 0, 1)
    name = backend.select(code.device, code.dtype)
    if name == "eager" or code.numel() == 0:
        _check_activities(code)
        return eager.kl_sparsity(code, target), eager.slope(code, target)
    return _run_kl(code, target, name)


def _target_of(target: float, number: Tensor | None = None) -> float:
    return target if number is None else number.item()


@_registered_kl.register_fake
def _(code: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    slope_dtype = torch.promote_types(code.dtype, torch.float32)
    return code.new_empty(()), code.new_empty(code.shape[-1:], dtype=slope_dtype)


def _setup_kl(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    code, ctx.target, number = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(code, output[1], number)


def _backward_kl(ctx: Context, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    code, slope, number = ctx.saved_tensors
    if torch.is_grad_enabled():
        slope = eager.slope(code, _target_of(ctx.target, number))
    return _expanded(slope, grad, code), None, None


_registered_kl.register_autograd(_backward_kl, setup_context=_setup_kl)


@_registered_kl.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    def definition(code: Tensor, *numbers: Any) -> tuple[Tensor, Tensor]:
        target = _target_of(*numbers)
        return eager.kl_sparsity(code, target), eager.slope(code, target)

    return torch.vmap(definition, in_dims)(*arguments), (0, 0)


@registered("aefast::l1_sparsity")
def _registered_l1(code: Tensor) -> Tensor:
    check_code(code)
    name = backend.select(code.device, code.dtype)
    if name == "eager" or code.numel() == 0:
        return eager.l1_sparsity(code)
    return _run_l1(code, name)


@_registered_l1.register_fake
def _(code: Tensor) -> Tensor:
    return code.new_empty(())


def _setup_l1(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_l1(ctx: Context, grad: Tensor) -> Tensor:
    (code,) = ctx.saved_tensors
    return eager.l1_gradient(code, grad)


_registered_l1.register_autograd(_backward_l1, setup_context=_setup_l1)


@_registered_l1.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.vmap(eager.l1_sparsity, in_dims)(*arguments), 0
