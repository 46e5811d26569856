"""A linear layer with its activation on the GPU: three products, and the activation's gradient."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.ops.shared import triton_activation, triton_gemm, triton_packed
from aefast.ops.shared.triton import TYPE_NAMES, Variant
from aefast.ops.shared.triton_packed import ByKey, Packed

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of x, weight and bias


def variants(generation: int) -> Iterator[Variant]:
    """Every cubin that :func:`forward` and :func:`backward` can launch."""
    yield from triton_gemm.variants(generation)
    for dtype in TYPE_NAMES:
        yield from triton_activation.variants(dtype)


def pays(x: Tensor, weight: Tensor) -> bool:
    return True


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    """(act(x Wt + b), the pre-activation if asked for); x [B, D], weight [H, D], bias [H]."""
    return triton_gemm.multiply(x, weight, bias, activation, keep_preactivation)


class PackedBackward(NamedTuple):
    """The packed launches of a whole backward pass: a call that finds them looks up no other."""

    activation: Packed
    grad_x: Packed | None
    grad_weight: Packed | None
    grad_bias: Packed | None
    blocks: int  # of rows, whose sums the bias's gradient adds up

    def run(
        self, grad: Tensor, x: Tensor | None, weight: Tensor | None, saved: Tensor
    ) -> Gradients:
        rows, units = grad.shape
        total = grad.new_empty(rows, units)
        partials = grad.new_empty(self.blocks, units, dtype=torch.float32)
        self.activation.run(grad, saved, total, partials)
        grad_x = grad_weight = grad_bias = None
        if weight is not None and self.grad_x is not None:
            grad_x = grad.new_empty(rows, weight.shape[1])
            self.grad_x.run(total, weight, grad_x, grad_x, total)
        if x is not None and self.grad_weight is not None:
            grad_weight = grad.new_empty(units, x.shape[1])
            self.grad_weight.run(total, x, grad_weight, grad_weight, total)
        if self.grad_bias is not None:
            grad_bias = grad.new_empty(units)
            self.grad_bias.run(partials, grad_bias)
        return grad_x, grad_weight, grad_bias


_packed: ByKey[PackedBackward] = ByKey()


def backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: Tensor | None,
    activation: str,
    bias_needed: bool,
) -> Gradients:
    """The gradients of x, if weight is given, of weight, if x is, and of bias; else None.

    saved: the pre-activation for gelu and silu, None for identity, else the output.
    """
    if saved is None:
        grad_bias = grad.sum(0, dtype=torch.float32).to(grad.dtype) if bias_needed else None
        return *_products(grad, grad.shape[1], x, weight), grad_bias
    key = (
        *(triton_packed.gpu_of(grad), triton_packed.layout(grad), triton_packed.layout(saved)),
        *(None if tensor is None else triton_packed.layout(tensor) for tensor in (x, weight)),
        *(grad.dtype, triton_gemm.kind_of(grad), activation, bias_needed),
    )
    found = _packed.find(key)
    if found is not None:
        return found.run(grad, x, weight, saved)
    total, partials = triton_activation.activation_backward(grad, saved, activation)
    grad_x, grad_weight = _products(total, grad.shape[1], x, weight)
    grad_bias = triton_activation.add_blocks(partials, grad.dtype) if bias_needed else None
    packed = _pack(grad, x, weight, saved, activation, total, partials if bias_needed else None)
    if packed is not None:
        _packed.keep(key, packed)
    return grad_x, grad_weight, grad_bias


def _products(
    total: Tensor, units: int, x: Tensor | None, weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of x and of weight, by the gradient of the pre-activation, which may have
    padded columns."""
    grad_x = None if weight is None else triton_gemm.multiply(total, weight.T)[0]
    grad_weight = None if x is None else triton_gemm.multiply(total.T, x.T)[0][:units]
    return grad_x, grad_weight


def _pack(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: Tensor,
    activation: str,
    total: Tensor,
    partials: Tensor | None,
) -> PackedBackward | None:
    """The launches of a pass that was made; None if one was not packed, or there is padding, which
    other launches cut off."""
    first = triton_activation.packed(grad, saved, activation)
    if first is None or total.shape != grad.shape:
        return None
    others = (
        None if weight is None else triton_gemm.packed(total, weight.T),
        None if x is None else triton_gemm.packed(total.T, x.T),
        None if partials is None else triton_activation.packed_sums(partials, grad.dtype),
    )
    are_wanted = [tensor is not None for tensor in (weight, x, partials)]
    if [launch is not None for launch in others] != are_wanted:
        return None
    return PackedBackward(first, *others, first.sizes[0])
