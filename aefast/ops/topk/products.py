"""The three products of a sparse code, each of which the others are the gradients of.

A code of k of L latents a row is ``values [B, k]`` and ``indices [B, k]``. With S its dense form
[B, L] they are

``sparse_decode(values, indices, weight, bias)``
    S weight + bias, ``[B, D]``;
``sampled_product(left, weight, indices)``
    the elements of left weightt that indices name, ``[B, k]``;
``latent_sums(values, indices, rows, latents)``
    St rows ``[L, D]`` and the sums of S's columns ``[L]``: sorted by latent, and each latent's rows
    added in their order, so that the bits are the same for any thread count.

Every gradient is one of them again, to any order: none holds an array of ``[B, k, D]``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.shared import dispatch
from aefast.ops.shared.autograd import Context, KernelFunction
from aefast.ops.shared.registered import registered
from aefast.ops.topk import eager


def sparse_decode(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _run(_Decode, "sparse_decode", values, indices, weight, bias)


def sampled_product(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    return _run(_Sampled, "sampled_product", left, weight, indices)


def latent_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    return _run(_Sums, "latent_sums", values, indices, rows, latents)


def _run(function: type[KernelFunction], name: str, *arguments: Any) -> Any:
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    first = tensors[0]
    if dispatch.is_traced(*tensors):
        if dispatch.is_defined_in_trace(first):
            return getattr(eager, name)(*arguments)
        return getattr(torch.ops.aefast, name)(*arguments)
    if dispatch.is_transformed(*tensors):
        return getattr(eager, name)(*arguments)
    chosen = backend.select(first.device, first.dtype)
    if dispatch.is_differentiated(*tensors) and not serves_definition(chosen, tensors):
        return function.apply(*arguments)
    return run_kernel(name, *arguments)


def serves_definition(chosen: str, tensors: list[Tensor]) -> bool:
    return chosen == "eager" or any(tensor.numel() == 0 for tensor in tensors)


def run_kernel(name: str, *arguments: Any, op: str = "topk") -> Any:
    """The backend's function of this name, or the definition where no kernel serves."""
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    chosen = backend.select(tensors[0].device, tensors[0].dtype)
    if serves_definition(chosen, tensors):
        return getattr(backend.implementation(op, "eager"), name)(*arguments)
    kernels = backend.implementation(op, chosen)
    return getattr(kernels, name)(
        *(dispatch.materialize(a, name) if isinstance(a, Tensor) else a for a in arguments)
    )


Gradients = tuple[Tensor | None, ...]


def _decode_gradients(
    needs: tuple[bool, ...], saved: tuple[Tensor, ...], grad: Tensor
) -> Gradients:
    values, indices, weight = saved
    return (
        sampled_product(grad, weight, indices) if needs[0] else None,
        None,
        latent_sums(values, indices, grad, weight.shape[0])[0] if needs[2] else None,
        grad.sum(0) if needs[3] else None,
    )


def _sampled_gradients(
    needs: tuple[bool, ...], saved: tuple[Tensor, ...], grad: Tensor
) -> Gradients:
    left, weight, indices = saved
    return (
        sparse_decode(grad, indices, weight, None) if needs[0] else None,
        latent_sums(grad, indices, left, weight.shape[0])[0] if needs[1] else None,
        None,
    )


def _sums_gradients(
    needs: tuple[bool, ...], saved: tuple[Tensor, ...], grad: Tensor, grad_totals: Tensor
) -> Gradients:
    values, indices, rows = saved
    grad_values = None
    if needs[0]:
        grad_values = sampled_product(rows, grad, indices) + grad_totals[indices]
    return grad_values, None, sparse_decode(values, indices, grad, None) if needs[2] else None, None


def _function(name: str, gradients: Callable[..., Gradients]) -> type[KernelFunction]:
    class Product(KernelFunction):
        @staticmethod
        def forward(*arguments: Any) -> Any:
            return run_kernel(name, *arguments)

        @staticmethod
        def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:3])

        @staticmethod
        def backward(ctx: Context, *grads: Tensor) -> Any:
            return gradients(ctx.needs_input_grad, ctx.saved_tensors, *grads)

    return Product


_Decode = _function("sparse_decode", _decode_gradients)
_Sampled = _function("sampled_product", _sampled_gradients)
_Sums = _function("latent_sums", _sums_gradients)


@registered("aefast::sparse_decode")
def _registered_decode(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    return run_kernel("sparse_decode", values, indices, weight, bias)


@_registered_decode.register_fake
def _(values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return values.new_empty(values.shape[0], weight.shape[1])


@registered("aefast::sampled_product")
def _registered_sampled(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    return run_kernel("sampled_product", left, weight, indices)


@_registered_sampled.register_fake
def _(left: Tensor, weight: Tensor, indices: Tensor) -> Tensor:
    return left.new_empty(indices.shape)


@registered("aefast::latent_sums")
def _registered_sums(
    values: Tensor, indices: Tensor, rows: Tensor, latents: int
) -> tuple[Tensor, Tensor]:
    return run_kernel("latent_sums", values, indices, rows, latents)


@_registered_sums.register_fake
def _(values: Tensor, indices: Tensor, rows: Tensor, latents: int) -> tuple[Tensor, Tensor]:
    return values.new_empty(latents, rows.shape[1]), values.new_empty(latents)


for _product, _op in (
    (_Decode, _registered_decode),
    (_Sampled, _registered_sampled),
    (_Sums, _registered_sums),
):
    _op.register_autograd(_product.backward, setup_context=_product.setup_context)
