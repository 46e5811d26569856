"""Noise injection: checks, autograd and the registration of ``aefast::corrupt``.

The mask is a function of the seed alone, so backward computes it again instead of storing it. The
gradient of masking, and of salt and pepper, is the incoming gradient under the same mask.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.corrupt import eager
from aefast.ops.corrupt.noise import KINDS, Noise
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.registered import registered


def check_noise(x: Tensor, kind: str, level: float) -> float:
    """The level as a float: a probability, or a Gaussian's standard deviation."""
    checks.check_tensor(x, "x")
    checks.check_choice(kind, "kind", KINDS)
    return checks.check_number(
        level, "level", 0, torch.finfo(x.dtype).max if kind == "gaussian" else 1
    )


def corrupt_with(x: Tensor, noise: Noise) -> Tensor:
    """``corrupt`` behind its checks, with a seed that was drawn, at any step."""
    return run(x, noise, dispatch.is_traced(x))


def run(x: Tensor, noise: Noise, traced: bool) -> Tensor:
    """Noised x, by the registered op, a backend's kernel or the definition; differentiable."""
    if traced:
        if dispatch.is_defined_in_trace(x):
            return eager.corrupt(x, noise)
        return torch.ops.aefast.corrupt(x, *noise._replace(seed=random.seed_tensor(noise.seed)))
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0 or dispatch.is_transformed(x):
        return eager.corrupt(x, noise)
    if dispatch.is_differentiated(x):
        return _Corrupt.apply(x, noise, name)
    return _run_kernel(x, noise, name)


def _run_kernel(x: Tensor, noise: Noise, name: str) -> Tensor:
    return backend.implementation("corrupt", name).corrupt(dispatch.materialize(x, "x"), noise)


class _Corrupt(KernelFunction):
    @staticmethod
    def forward(x: Tensor, noise: Noise, name: str) -> Tensor:
        return _run_kernel(x, noise, name)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.noise, ctx.name = inputs

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.noise.kind == "gaussian":
            return grad, None, None
        masking = ctx.noise.masking()
        if dispatch.is_transformed(grad) or dispatch.is_traced(grad):
            return eager.corrupt(grad, masking), None, None
        if dispatch.is_differentiated(grad):
            return _Corrupt.apply(grad, masking, ctx.name), None, None
        return _run_kernel(grad, masking, ctx.name), None, None


@registered("aefast::corrupt")
def _registered(
    x: Tensor,
    kind: str,
    level: float,
    low: float,
    high: float,
    seed: Tensor,
    row_offset: int,
    step: int,
) -> Tensor:
    check_noise(x, kind, level)
    checks.check_seed_tensor(seed)
    noise = Noise(kind, level, low, high, seed, row_offset, step)
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0:
        return eager.corrupt(x, noise)
    return _run_kernel(x, noise, name)


@_registered.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    noise = Noise._make(inputs[1:])
    assert isinstance(noise.seed, Tensor)
    ctx.save_for_backward(noise.seed)
    ctx.noise = noise._replace(seed=0)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.noise.kind != "gaussian":
        (seed,) = ctx.saved_tensors
        grad = torch.ops.aefast.corrupt(grad, *ctx.noise._replace(seed=seed).masking())
    return grad, *(None,) * 7


_registered.register_autograd(_backward, setup_context=_setup_context)


@_registered.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.vmap(lambda x, *noise: eager.corrupt(x, Noise._make(noise)), in_dims)(
        *arguments
    ), 0
