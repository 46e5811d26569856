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
from aefast.ops.shared.autograd import Context, KernelFunction, check_not_freed
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
        return _in_graph(x, noise, dispatch.numbers_in_graph(x.device, noise.level))
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0 or dispatch.is_transformed(x):
        return eager.corrupt(x, noise)
    if dispatch.is_differentiated(x):
        return _Corrupt.apply(x, noise, name)
    return _run_kernel(x, noise, name)


def _in_graph(x: Tensor, noise: Noise, level: Tensor | None) -> Tensor:
    """The registered op. ``level``, where it is a tensor, stands for the noise's own."""
    seed = random.seed_tensor(noise.seed, x.device)
    noise = noise._replace(seed=seed, level=noise.level if level is None else 0.0)
    noised: Tensor = torch.ops.aefast.corrupt(x, *noise, level)
    return noised


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
        check_not_freed(ctx)
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
    level_tensor: Tensor | None = None,
) -> Tensor:
    noise = _noise_of(kind, level, low, high, seed, row_offset, step, level_tensor)
    check_noise(x, kind, noise.level)
    checks.check_seed_tensor(seed)
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0:
        return eager.corrupt(x, noise)
    return _run_kernel(x, noise, name)


@_registered.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    *noise, level_tensor = inputs[1:]
    ctx.noise = Noise._make(noise)
    ctx.save_for_backward(ctx.noise.seed, level_tensor)
    ctx.noise = ctx.noise._replace(seed=0)


def _backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.noise.kind != "gaussian":
        seed, level_tensor = ctx.saved_tensors
        grad = _in_graph(grad, ctx.noise._replace(seed=seed).masking(), level_tensor)
    return grad, *(None,) * 8


_registered.register_autograd(_backward, setup_context=_setup_context)


@_registered.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    def corrupt(x: Tensor, *noise: Any) -> Tensor:
        return eager.corrupt(x, _noise_of(*noise))

    return torch.vmap(corrupt, in_dims)(*arguments), 0


def _noise_of(*fields: Any) -> Noise:
    """The noise from the registered op's arguments after x; ``level_tensor`` may be left out."""
    noise = Noise._make(fields[:7])
    (level_tensor,) = fields[7:] or (None,)
    return noise if level_tensor is None else noise._replace(level=level_tensor.item())
