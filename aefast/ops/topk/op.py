"""Sparse codes over many latents: checks, autograd and the registered op of encoding.

A backend module has ``topk_encode(x, weight, bias, k) -> (values, indices)``, of ``x [B, D]``,
``weight [L, D]`` and ``bias [L]`` or None, both ``[B, k]``, and the products of products.py.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.public import result
from aefast.ops.shared.registered import registered
from aefast.ops.topk import eager, products
from aefast.ops.topk.products import latent_sums, run_kernel
from aefast.torch_private import exports_to_onnx


@result
class SparseCode(NamedTuple):
    """k latents of each row and their values.

    Attributes:
        values: ``[..., k]``.
        indices: ``[..., k]``, int64: the latents.
    """

    values: Tensor
    indices: Tensor


def as_rows(x: Tensor) -> Tensor:
    """``[..., k]`` as a matrix. make_fx, which records every size that is read, is not to hold the
    width of a batch top-k code."""
    return x if x.dim() == 2 else _with_leading(x, math.prod(x.shape[:-1]))


def in_shape_of(x: Tensor, rows: Tensor) -> Tensor:
    """Rows ``[B, k]`` that were computed of :func:`as_rows` of x, as ``[..., k]``, likewise."""
    return rows if x.dim() == 2 else _with_leading(rows, *x.shape[:-1])


def _with_leading(x: Tensor, *leading: int) -> Tensor:
    if x.numel() and x.is_contiguous():
        return x.view(*leading, -1)
    return x.reshape(*leading, x.shape[-1])


def check_encoder(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> None:
    checks.check_tensor(x, "x")
    checks.check_like(weight, "weight", x, "x")
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {list(weight.shape)}; it takes [L, D]")
    latents, width = weight.shape
    if x.dim() < 1 or x.shape[-1] != width:
        raise ValueError(
            f"x has shape {list(x.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes [..., {width}]"
        )
    _check_bias(bias, weight, latents, x, "x")
    checks.check_integer(k, "k", 2**63)
    if not 1 <= k <= latents:
        raise ValueError(
            f"k is {k}; with weight's shape {list(weight.shape)} it takes an int in [1, {latents}]"
        )


def check_code(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    checks.check_tensor(values, "values")
    checks.check_like(weight, "weight", values, "values")
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {list(weight.shape)}; it takes [L, D]")
    if values.dim() < 1:
        raise ValueError("values has shape []; it takes [..., k]")
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices is a {type(indices).__name__}; it takes a torch.Tensor")
    if indices.dtype != torch.int64:
        raise TypeError(f"indices has dtype {checks.dtype_name(indices)}; it takes int64")
    if indices.device != values.device:
        raise ValueError(
            f"indices is on {indices.device}; it takes values's device, {values.device}"
        )
    if indices.shape != values.shape:
        raise ValueError(
            f"indices has shape {list(indices.shape)}; it takes values's, {list(values.shape)}"
        )
    _check_bias(bias, weight, weight.shape[1], values, "values")


def _check_bias(
    bias: Tensor | None, weight: Tensor, size: int, reference: Tensor, argument: str
) -> None:
    if bias is None:
        return
    checks.check_like(bias, "bias", reference, argument)
    if tuple(bias.shape) != (size,):
        raise ValueError(
            f"bias has shape {list(bias.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes [{size}]"
        )


def encode(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    if dispatch.is_traced(x, weight, bias):
        if dispatch.is_defined_in_trace(x):
            # ONNX has no stable sort; its TopK has the lower index first of equal values, too.
            select = eager.any_topk_encode if exports_to_onnx() else eager.topk_encode
            return select(x, weight, bias, k)
        return torch.ops.aefast.topk_encode(x, weight, bias, k)
    name = backend.select(x.device, x.dtype)
    if name == "eager" or 0 in (x.numel(), weight.numel()) or dispatch.is_transformed(x):
        return eager.topk_encode(x, weight, bias, k)
    inputs = (x, weight, bias)
    if dispatch.is_differentiated(*inputs):
        return _TopKEncode.apply(*inputs, k)
    return run_kernel("topk_encode", *inputs, k)


class _TopKEncode(KernelFunction):
    """Differentiable through the latents that were selected, which are held constant."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        return run_kernel("topk_encode", x, weight, bias, k)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, weight, output[1])

    @staticmethod
    def backward(ctx: Context, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        x, weight, indices = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_x = products.sparse_decode(grad, indices, weight, None) if needs_x else None
        sums = totals = None
        if needs_weight or needs_bias:
            sums, totals = latent_sums(grad, indices, x, weight.shape[0])
        return grad_x, sums if needs_weight else None, totals if needs_bias else None, None


@registered("aefast::topk_encode")
def _registered(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    check_encoder(x, weight, bias, k)
    if x.dim() != 2:
        raise ValueError(f"x has shape {list(x.shape)}; the registered op takes [B, D]")
    return run_kernel("topk_encode", x, weight, bias, k)


@_registered.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int64)


_registered.register_autograd(_TopKEncode.backward, setup_context=_TopKEncode.setup_context)
