"""A linear layer with its activation on the GPU: three products, and the activation's gradient."""

from collections.abc import Iterator

import torch
from torch import Tensor

from aefast.ops.shared import triton_activation, triton_gemm
from aefast.ops.shared.triton import TYPE_NAMES, Variant


def variants(generation: int) -> Iterator[Variant]:
    """Every cubin that :func:`forward` and :func:`backward` can launch."""
    yield from triton_gemm.variants(generation)
    for dtype in TYPE_NAMES:
        for aligned in (True, False):
            yield triton_activation.variant(dtype, aligned)


def pays(x: Tensor, weight: Tensor) -> bool:
    return True


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    """(act(x Wt + b), the pre-activation if asked for); x [B, D], weight [H, D], bias [H]."""
    return triton_gemm.multiply(x, weight, bias, activation, keep_preactivation)


def backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: Tensor | None,
    activation: str,
    bias_needed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, if weight is given, of weight, if x is, and of bias; else None.

    saved: the pre-activation for gelu and silu, None for identity, else the output.
    """
    grad_bias = None
    if saved is None:
        grad_preactivation = grad
        if bias_needed:
            grad_bias = grad.sum(0, dtype=torch.float32)
    else:
        grad_preactivation, partials = triton_activation.activation_backward(
            grad, saved, activation
        )
        if bias_needed:
            grad_bias = partials.sum(0)
    grad_x = grad_weight = None
    if weight is not None:
        grad_x, _ = triton_gemm.multiply(grad_preactivation, weight.T)
    if x is not None:
        grad_weight, _ = triton_gemm.multiply(grad_preactivation.T, x.T)
        grad_weight = grad_weight[: grad.shape[1]]
    return grad_x, grad_weight, None if grad_bias is None else grad_bias.to(grad.dtype)
