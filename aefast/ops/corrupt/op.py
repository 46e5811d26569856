"""Noise injection: checks, autograd and the registration of ``aefast::corrupt``.

The mask is a pure function of the seed, so backward draws it again instead of storing it: the
gradient of masking, and of salt and pepper, is the incoming gradient masked by the same draw.
"""

from typing import Any

import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.corrupt import eager
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import KernelFunction
from aefast.ops.shared.registered import registered
from aefast.random import Step

# The step that each kind is drawn at.
STEPS = {
    "masking": Step.MASKING.value,
    "salt_and_pepper": Step.SALT_AND_PEPPER.value,
    "gaussian": Step.GAUSSIAN.value,
}
KINDS = tuple(STEPS)


def check_noise(x: Tensor, kind: str, level: float) -> float:
    """The level as a float: a probability, or a Gaussian's standard deviation."""
    checks.check_tensor(x, "x")
    checks.check_choice(kind, "kind", KINDS)
    return checks.check_number(
        level, "level", 0, torch.finfo(x.dtype).max if kind == "gaussian" else 1
    )


def corrupt_with(
    x: Tensor,
    kind: str,
    level: float,
    low: float,
    high: float,
    seed: int | Tensor,
    row_offset: int,
    step: int,
) -> Tensor:
    """``corrupt`` behind its checks, with a seed that was drawn, at any step."""
    arguments = (kind, level, low, high, seed, row_offset, step)
    return run(x, arguments, dispatch.is_traced(x))


def run(x: Tensor, arguments: tuple[Any, ...], traced: bool) -> Tensor:
    """By the registered op, a backend's kernel or the definition; differentiable."""
    if traced:
        if dispatch.is_defined_in_trace(x.dtype):
            return eager.corrupt(x, *arguments)
        *noise, seed, row_offset, step = arguments
        return torch.ops.aefast.corrupt(x, *noise, random.seed_tensor(seed), row_offset, step)
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0 or dispatch.is_transformed(x):
        return eager.corrupt(x, *arguments)
    return _corrupt(x, arguments, name)


def _corrupt(x: Tensor, arguments: tuple[Any, ...], name: str) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        return _Corrupt.apply(x, arguments, name)
    return _run(x, arguments, name)


def _run(x: Tensor, arguments: tuple[Any, ...], name: str) -> Tensor:
    return backend.implementation("corrupt", name).corrupt(dispatch.materialize(x, "x"), *arguments)


def _masking(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments that zero what ``arguments`` touched."""
    _, level, _, _, *place = arguments
    return "masking", level, 0.0, 0.0, *place


class _Corrupt(KernelFunction):
    @staticmethod
    def forward(x: Tensor, arguments: tuple[Any, ...], name: str) -> Tensor:
        return _run(x, arguments, name)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.arguments, ctx.name = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.arguments[0] == "gaussian":
            return grad, None, None
        if dispatch.is_transformed(grad) or dispatch.is_traced(grad):
            return eager.corrupt(grad, *_masking(ctx.arguments)), None, None
        return _corrupt(grad, _masking(ctx.arguments), ctx.name), None, None


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
    arguments = (kind, level, low, high, seed, row_offset, step)
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0:
        return eager.corrupt(x, *arguments)
    return _run(x, arguments, name)


@_registered.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *arguments, seed, ctx.row_offset, ctx.step = inputs
    ctx.arguments = arguments
    ctx.save_for_backward(seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.arguments[0] != "gaussian":
        masking = _masking((*ctx.arguments, *ctx.saved_tensors, ctx.row_offset, ctx.step))
        grad = torch.ops.aefast.corrupt(grad, *masking)
    return grad, *(None,) * 7


_registered.register_autograd(_backward, setup_context=_setup_context)


@_registered.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.vmap(eager.corrupt, in_dims)(*arguments), 0
