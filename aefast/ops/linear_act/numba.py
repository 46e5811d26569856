"""A linear layer with its activation in numba, around the vendor's matrix products.

The activations are computed in float32 and rounded to the tensors' dtype.
"""

import torch
from torch import Tensor

from aefast.ops.shared import numba as shared


def pays(x: Tensor, weight: Tensor) -> bool:
    """Never: a pass around the vendor's product was 0.4 to 0.9 times as fast as torch's operators,
    forward and backward (Xeon, two threads, 32x30-16 to 4096x784-1024)."""
    return False


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    x, weight = x.detach(), weight.detach()
    if bias is None:
        preactivation = torch.mm(x, weight.t())
    else:
        preactivation = torch.addmm(bias.detach(), x, weight.t())
    if activation == "identity":
        return preactivation, None
    output = shared.map_elements(shared.activate(activation), preactivation)
    return output, preactivation if keep_preactivation else None


def backward(
    grad: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    saved: Tensor | None,
    activation: str,
    bias_needed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if saved is not None:
        grad = shared.map_elements(shared.activation_backward(activation), grad, saved)
    grad_x = None if weight is None else torch.mm(grad, weight)
    grad_weight = None if x is None else torch.mm(grad.t(), x)
    grad_bias = grad.sum(0) if bias_needed else None
    return grad_x, grad_weight, grad_bias
