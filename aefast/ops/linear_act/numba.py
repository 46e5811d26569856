"""A linear layer with its activation in numba, around the vendor's matrix products.

The activations are computed in float32 and rounded to the tensors' dtype.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from aefast.ops.shared import numba as shared


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
    output = _map(shared.activate(activation), preactivation)
    return output, preactivation if keep_preactivation else None


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    activation: str,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if saved is not None:
        grad = _map(shared.activation_backward(activation), grad, saved)
    grad_x = torch.mm(grad, weight) if needed[0] else None
    grad_weight = torch.mm(grad.t(), x) if needed[1] else None
    grad_bias = grad.sum(0) if needed[2] else None
    return grad_x, grad_weight, grad_bias


def _map(function: Callable[..., np.ndarray], *tensors: Tensor) -> Tensor:
    """function of the tensors' elements, in parallel over parts of them."""
    output = torch.empty(tensors[0].shape, dtype=torch.float32, device="cpu")
    flat = [t.detach().contiguous().float().numpy().reshape(-1) for t in (*tensors, output)]

    def task(index: int) -> None:
        part = slice(index * shared.ELEMENTS_PER_TASK, (index + 1) * shared.ELEMENTS_PER_TASK)
        *inputs, result = (array[part] for array in flat)
        function(*inputs, out=result)

    shared.parallel_for(-(-output.numel() // shared.ELEMENTS_PER_TASK), task)
    return output.to(tensors[0].dtype)
