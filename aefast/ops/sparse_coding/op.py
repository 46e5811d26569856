"""Soft thresholding and sparse coding: checks, autograd and the registered ops.

A backend module has four functions:

``soft_threshold(x, threshold)`` and ``soft_threshold_backward(grad, x, threshold)``
    of any shape; the gradient passes where |x| > threshold.
``multiply(left, right)``
    left @ right.T, of matrices.
``encode(problem, start) -> code``
    the minimizers [B, K] of a float32 problem (see problem.py), from the codes [B, K] on.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.capture import refuse_capture
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction, connected
from aefast.ops.shared.registered import registered
from aefast.ops.sparse_coding import eager
from aefast.ops.sparse_coding.problem import pose


def shrink(x: Tensor, threshold: float) -> Tensor:
    """``soft_threshold`` by the registered op, a kernel or the definition; differentiable."""
    if dispatch.is_traced(x):
        if dispatch.is_defined_in_trace(x):
            return eager.soft_threshold(x, threshold)
        return torch.ops.aefast.soft_threshold(x, threshold)
    name = backend.select(x.device, x.dtype)
    # torch's own pass over a CPU's memory takes 0.85 to 0.95 of the kernel's time.
    is_torchs = x.device.type == "cpu" and not backend.is_forced()
    if is_torchs or name == "eager" or x.numel() == 0 or dispatch.is_transformed(x):
        return eager.soft_threshold(x, threshold)
    if dispatch.is_differentiated(x):
        return _SoftThreshold.apply(x, threshold, name)
    return _soft_threshold(x, threshold, name)


def _soft_threshold(x: Tensor, threshold: float, name: str) -> Tensor:
    kernels = backend.implementation("sparse_coding", name)
    return kernels.soft_threshold(dispatch.materialize(x, "x"), threshold)


def _defined_gradient(grad: Tensor, x: Tensor, threshold: float) -> Tensor | None:
    return connected([eager.soft_threshold_backward(grad, x, threshold)], [grad, x])[0]


class _SoftThreshold(KernelFunction):
    @staticmethod
    def forward(x: Tensor, threshold: float, name: str) -> Tensor:
        return _soft_threshold(x, threshold, name)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.threshold, ctx.name = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        defined = (
            torch.is_grad_enabled() or dispatch.is_transformed(grad) or dispatch.is_traced(grad)
        )
        if defined:
            return _defined_gradient(grad, x, ctx.threshold), None, None
        kernels = backend.implementation("sparse_coding", ctx.name)
        grad = dispatch.materialize(grad, "the incoming gradient")
        x = dispatch.materialize(x, "x")
        return kernels.soft_threshold_backward(grad, x, ctx.threshold), None, None


@registered("aefast::soft_threshold")
def _registered_soft_threshold(x: Tensor, threshold: float) -> Tensor:
    checks.check_tensor(x, "x")
    checks.check_number(threshold, "threshold", 0)
    name = backend.select(x.device, x.dtype)
    if name == "eager" or x.numel() == 0:
        return eager.soft_threshold(x, threshold).contiguous()
    return _soft_threshold(x, threshold, name)


@_registered_soft_threshold.register_fake
def _(x: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_input(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.threshold = inputs
    ctx.save_for_backward(x)


def _soft_threshold_gradients(ctx: Context, grad: Tensor) -> tuple[Tensor | None, None]:
    (x,) = ctx.saved_tensors
    return _defined_gradient(grad, x, ctx.threshold), None


_registered_soft_threshold.register_autograd(_soft_threshold_gradients, setup_context=_save_input)


def encode(
    x: Tensor,
    dictionary: Tensor,
    start: Tensor | None,
    penalty: float,
    tolerance: float,
    steps: int,
) -> Tensor:
    """The codes ``[..., K]``, by the registered op, a kernel or the definition."""
    leading, atoms = x.shape[:-1], dictionary.shape[0]
    rows = x.reshape(math.prod(leading), x.shape[-1])
    if start is not None:
        start = start.reshape(rows.shape[0], atoms)
    run: Any = _sparse_encode
    if dispatch.counts_flops():
        run = partial(_sparse_encode, name="eager")
    elif dispatch.is_traced(x, dictionary, start) or dispatch.is_in_functorch():
        # How many steps a row takes hangs on the data, so that no trace of the definition can tell.
        dispatch.refuse_onnx("sparse_encode takes as many steps as x's values need")
        run = torch.ops.aefast.sparse_encode
    with torch.no_grad(), dispatch.without_autocast(x.device):
        return run(rows, dictionary, start, penalty, tolerance, steps).reshape(*leading, atoms)


def check_settings(penalty: Any, steps: Any, tolerance: Any) -> tuple[float, int, float]:
    penalty = checks.check_number(penalty, "penalty", 0)
    if penalty == 0:
        raise ValueError("penalty is 0; it takes a finite number above 0")
    steps = checks.check_integer(steps, "steps", 2**31, low=1)
    return penalty, steps, checks.check_number(tolerance, "tolerance", 0)


def check_tensors(x: Tensor, dictionary: Tensor, start: Tensor | None) -> None:
    checks.check_tensor(x, "x")
    checks.check_like(dictionary, "dictionary", x, "x")
    if dictionary.dim() != 2:
        raise ValueError(f"dictionary has shape {list(dictionary.shape)}; it takes [K, D]")
    atoms, width = dictionary.shape
    fitting = f"with dictionary's shape [{atoms}, {width}] it takes"
    if x.dim() < 1 or x.shape[-1] != width:
        raise ValueError(f"x has shape {list(x.shape)}; {fitting} [..., {width}]")
    if start is None:
        return
    checks.check_like(start, "start", x, "x")
    expected = [*x.shape[:-1], atoms]
    if list(start.shape) != expected:
        raise ValueError(
            f"start has shape {list(start.shape)}; with x's shape {list(x.shape)} and "
            f"dictionary's [{atoms}, {width}] it takes {expected}"
        )


def _sparse_encode(
    x: Tensor,
    dictionary: Tensor,
    start: Tensor | None,
    penalty: float,
    tolerance: float,
    steps: int,
    name: str | None = None,
) -> Tensor:
    if 0 in (x.numel(), dictionary.numel()):
        return x.new_zeros(x.shape[0], dictionary.shape[0])
    refuse_capture(x.device, "sparse_encode")
    dtype = x.dtype
    name = name or backend.select(x.device, dtype)
    solver = eager if name == "eager" else backend.implementation("sparse_coding", name)
    if dtype in backend.KERNEL_DTYPES:
        x, dictionary = x.float(), dictionary.float()
        start = None if start is None else start.float()
    x, dictionary = (
        dispatch.materialize(tensor, argument).detach()
        for tensor, argument in ((x, "x"), (dictionary, "dictionary"))
    )
    problem, finite = pose(x, dictionary, penalty, tolerance, steps, solver.multiply)
    if start is None:
        start = torch.zeros_like(problem.correlation)
    else:
        finite &= start.square().sum(1).isfinite()
        start = torch.where(finite[:, None], start.detach(), 0)
    code = solver.encode(problem, start)
    return torch.where(finite[:, None], code, math.nan).to(dtype)


@registered("aefast::sparse_encode")
def _registered_sparse_encode(
    x: Tensor,
    dictionary: Tensor,
    start: Tensor | None,
    penalty: float,
    tolerance: float,
    steps: int,
) -> Tensor:
    check_settings(penalty, steps, tolerance)
    check_tensors(x, dictionary, start)
    if x.dim() != 2:
        raise ValueError(f"x has shape {list(x.shape)}; the registered op takes [B, D]")
    with torch.no_grad():
        return _sparse_encode(x, dictionary, start, penalty, tolerance, steps)


@_registered_sparse_encode.register_fake
def _(x: Tensor, dictionary: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape[0], dictionary.shape[0])


def _no_gradients(ctx: Context, _: Any) -> tuple[None, ...]:
    return (None,) * 6


def _not_differentiable(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.mark_non_differentiable(output)


_registered_sparse_encode.register_autograd(_no_gradients, setup_context=_not_differentiable)


@_registered_sparse_encode.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    """One sample after the other: each may have a dictionary of its own."""
    samples = (
        [
            argument if dim is None else argument.select(dim, sample)
            for argument, dim in zip(arguments, in_dims, strict=True)
        ]
        for sample in range(info.batch_size)
    )
    return torch.stack([torch.ops.aefast.sparse_encode(*sample) for sample in samples]), 0
