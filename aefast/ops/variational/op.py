"""A Gaussian code's sample and divergence: checks, autograd, the registered ops.

The noise is a function of the seed alone, so backward computes it again instead of storing it. With
F(factor, scale) = factor scale e^(log_var / 2) z, the sample is mean + F(1, 1), and

    dF/dfactor g = F(g, scale)        dF/dlog_var g = F(g factor, scale / 2),

so that derivatives of every order are drawn by the same kernel.

A backend module has four functions, as eager.py has: ``reparameterize``, ``scaled_noise`` (F),
``gaussian_kl`` and ``gaussian_kl_backward``.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.registered import registered
from aefast.ops.variational import eager


def sample(
    mean: Tensor, log_var: Tensor, seed: int | Tensor, row_offset: int, traced: bool
) -> Tensor:
    """The sample by the registered op, a backend's kernel or the definition; differentiable."""
    if traced:
        if dispatch.is_defined_in_trace(mean):
            return eager.reparameterize(mean, log_var, seed, row_offset)
        seed = random.seed_tensor(seed, mean.device)
        return torch.ops.aefast.reparameterize(mean, log_var, seed, row_offset)
    name = backend.select(mean.device, mean.dtype)
    if name == "eager" or mean.numel() == 0 or dispatch.is_transformed(mean, log_var):
        return eager.reparameterize(mean, log_var, seed, row_offset)
    if dispatch.is_differentiated(mean, log_var):
        return _Reparameterize.apply(mean, log_var, seed, row_offset, name)
    return _run("reparameterize", name, mean, log_var, seed, row_offset)


def divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """The divergence by the registered op, a backend's kernel or the definition; differentiable."""
    if dispatch.is_traced(mean, log_var):
        if dispatch.is_defined_in_trace(mean):
            return eager.gaussian_kl(mean, log_var)
        return torch.ops.aefast.gaussian_kl(mean, log_var)
    name = backend.select(mean.device, mean.dtype)
    if name == "eager" or mean.numel() == 0 or dispatch.is_transformed(mean, log_var):
        return eager.gaussian_kl(mean, log_var)
    if dispatch.is_differentiated(mean, log_var):
        return _GaussianKL.apply(mean, log_var, name)
    return _run("gaussian_kl", name, mean, log_var)


def checked_pair(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors, checked; under autocast in the dtype that arithmetic promotes them to."""
    checks.check_tensor(mean, "mean")
    if dispatch.autocast_dtype(mean.device) is not None:
        checks.check_castable(log_var, "log_var", mean, "mean")
        dtype = torch.promote_types(mean.dtype, log_var.dtype)
        mean, log_var = mean.to(dtype), log_var.to(dtype)
    _check_log_var(log_var, mean)
    return mean, log_var


def _check_log_var(log_var: Tensor, mean: Tensor) -> None:
    checks.check_like(log_var, "log_var", mean, "mean")
    if log_var.shape != mean.shape:
        raise ValueError(
            f"log_var has shape {list(log_var.shape)}; it takes mean's, {list(mean.shape)}"
        )


def _run(function: str, name: str, first: Tensor, log_var: Tensor, *arguments: Any) -> Tensor:
    argument = "the incoming gradient" if function == "scaled_noise" else "mean"
    first = dispatch.materialize(first, argument)
    log_var = dispatch.materialize(log_var, "log_var")
    return getattr(backend.implementation("variational", name), function)(
        first, log_var, *arguments
    )


class _Reparameterize(KernelFunction):
    @staticmethod
    def forward(
        mean: Tensor, log_var: Tensor, seed: int | Tensor, row_offset: int, name: str
    ) -> Tensor:
        return _run("reparameterize", name, mean, log_var, seed, row_offset)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, log_var, *ctx.arguments = inputs
        ctx.save_for_backward(log_var)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (log_var,) = ctx.saved_tensors
        grad_log_var = None
        if ctx.needs_input_grad[1]:
            grad_log_var = _scaled_noise(grad, log_var, 0.5, *ctx.arguments)
        return grad, grad_log_var, None, None, None


def _scaled_noise(
    factor: Tensor, log_var: Tensor, scale: float, seed: int | Tensor, row_offset: int, name: str
) -> Tensor:
    if dispatch.is_transformed(factor, log_var) or dispatch.is_traced(factor):
        return eager.scaled_noise(factor, log_var, scale, seed, row_offset)
    if dispatch.is_differentiated(factor, log_var):
        return _ScaledNoise.apply(factor, log_var, scale, seed, row_offset, name)
    return _run("scaled_noise", name, factor, log_var, scale, seed, row_offset)


class _ScaledNoise(KernelFunction):
    @staticmethod
    def forward(
        factor: Tensor,
        log_var: Tensor,
        scale: float,
        seed: int | Tensor,
        row_offset: int,
        name: str,
    ) -> Tensor:
        return _run("scaled_noise", name, factor, log_var, scale, seed, row_offset)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        factor, log_var, ctx.scale, *ctx.arguments = inputs
        ctx.save_for_backward(factor, log_var)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        factor, log_var = ctx.saved_tensors
        grad_factor = grad_log_var = None
        if ctx.needs_input_grad[0]:
            grad_factor = _scaled_noise(grad, log_var, ctx.scale, *ctx.arguments)
        if ctx.needs_input_grad[1]:
            grad_log_var = _scaled_noise(grad * factor, log_var, ctx.scale / 2, *ctx.arguments)
        return grad_factor, grad_log_var, None, None, None, None


class _GaussianKL(KernelFunction):
    @staticmethod
    def forward(mean: Tensor, log_var: Tensor, name: str) -> Tensor:
        return _run("gaussian_kl", name, mean, log_var)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        mean, log_var, ctx.name = inputs
        ctx.save_for_backward(mean, log_var)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, log_var = ctx.saved_tensors
        if torch.is_grad_enabled() or dispatch.is_transformed(grad) or dispatch.is_traced(grad):
            # The definition's gradient can be differentiated again, batched and traced.
            return *eager.gaussian_kl_backward(grad, mean, log_var), None
        kernel = backend.implementation("variational", ctx.name).gaussian_kl_backward
        grad = dispatch.materialize(grad, "the incoming gradient")
        mean, log_var = dispatch.materialize(mean, "mean"), dispatch.materialize(log_var, "log_var")
        return *kernel(grad, mean, log_var), None


@registered("aefast::reparameterize")
def _registered_reparameterize(
    mean: Tensor, log_var: Tensor, seed: Tensor, row_offset: int
) -> Tensor:
    _check_registered(mean, log_var, seed)
    name = backend.select(mean.device, mean.dtype)
    if name == "eager" or mean.numel() == 0:
        return eager.reparameterize(mean, log_var, seed, row_offset)
    return _run("reparameterize", name, mean, log_var, seed, row_offset)


@registered("aefast::scaled_noise")
def _registered_scaled_noise(
    factor: Tensor, log_var: Tensor, scale: float, seed: Tensor, row_offset: int
) -> Tensor:
    _check_registered(factor, log_var, seed)
    name = backend.select(log_var.device, log_var.dtype)
    if name == "eager" or log_var.numel() == 0:
        return eager.scaled_noise(factor, log_var, scale, seed, row_offset)
    return _run("scaled_noise", name, factor, log_var, scale, seed, row_offset)


@registered("aefast::gaussian_kl")
def _registered_gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    checks.check_tensor(mean, "mean")
    _check_log_var(log_var, mean)
    name = backend.select(mean.device, mean.dtype)
    if name == "eager" or mean.numel() == 0:
        return eager.gaussian_kl(mean, log_var)
    return _run("gaussian_kl", name, mean, log_var)


def _check_registered(mean: Tensor, log_var: Tensor, seed: Tensor) -> None:
    checks.check_tensor(mean, "mean")
    _check_log_var(log_var, mean)
    checks.check_seed_tensor(seed)


@_registered_reparameterize.register_fake
@_registered_scaled_noise.register_fake
def _(first: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(first, memory_format=torch.contiguous_format)


@_registered_gaussian_kl.register_fake
def _(mean: Tensor, _: Tensor) -> Tensor:
    return mean.new_empty(mean.shape[:-1])


def _reparameterize_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, log_var, seed, ctx.row_offset = inputs
    ctx.save_for_backward(log_var, seed)


def _reparameterize_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    log_var, seed = ctx.saved_tensors
    grad_log_var = torch.ops.aefast.scaled_noise(grad, log_var, 0.5, seed, ctx.row_offset)
    return grad, grad_log_var, None, None


def _scaled_noise_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    factor, log_var, ctx.scale, seed, ctx.row_offset = inputs
    ctx.save_for_backward(factor, log_var, seed)


def _scaled_noise_backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    factor, log_var, seed = ctx.saved_tensors
    scaled_noise = torch.ops.aefast.scaled_noise
    grad_factor = scaled_noise(grad, log_var, ctx.scale, seed, ctx.row_offset)
    grad_log_var = scaled_noise(grad * factor, log_var, ctx.scale / 2, seed, ctx.row_offset)
    return grad_factor, grad_log_var, None, None, None


def _gaussian_kl_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gaussian_kl_backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor]:
    return eager.gaussian_kl_backward(grad, *ctx.saved_tensors)


_registered_reparameterize.register_autograd(
    _reparameterize_backward, setup_context=_reparameterize_context
)
_registered_scaled_noise.register_autograd(
    _scaled_noise_backward, setup_context=_scaled_noise_context
)
_registered_gaussian_kl.register_autograd(_gaussian_kl_backward, setup_context=_gaussian_kl_context)


@_registered_reparameterize.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.vmap(eager.reparameterize, in_dims)(*arguments), 0


@_registered_scaled_noise.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.vmap(eager.scaled_noise, in_dims)(*arguments), 0


@_registered_gaussian_kl.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.vmap(eager.gaussian_kl, in_dims)(*arguments), 0
