"""A linear layer with its activation, as the equations read: act(x Wt + b) and its gradient."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.shared.precision import upcast

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "silu": F.silu,
}

DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.ones_like,
    "relu": lambda z: torch.where(z <= 0, torch.zeros_like(z), torch.ones_like(z)),
    "leaky_relu": lambda z: torch.where(z > 0, torch.ones_like(z), torch.full_like(z, 0.01)),
    "sigmoid": lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z)),
    "tanh": lambda z: 1 - torch.tanh(z) ** 2,
    "softplus": torch.sigmoid,
    "gelu": lambda z: torch.special.ndtr(z) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    "silu": lambda z: torch.sigmoid(z) * (1 + z * (1 - torch.sigmoid(z))),
}

# Derivatives as functions of the output, for the activations where the output suffices.
DERIVATIVES_OF_OUTPUT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": DERIVATIVES["relu"],
    "leaky_relu": DERIVATIVES["leaky_relu"],
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y**2,
    "softplus": lambda y: -torch.expm1(-y),
}

# Those whose second derivative is 0 everywhere.
PIECEWISE_LINEAR = ("identity", "relu", "leaky_relu")

# The second derivatives.
CURVATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": torch.zeros_like,
    "relu": torch.zeros_like,
    "leaky_relu": torch.zeros_like,
    "sigmoid": lambda z: torch.sigmoid(z) * torch.sigmoid(-z) * (1 - 2 * torch.sigmoid(z)),
    "tanh": lambda z: -2 * torch.tanh(z) * (1 - torch.tanh(z) ** 2),
    "softplus": lambda z: torch.sigmoid(z) * torch.sigmoid(-z),
    "gelu": lambda z: (2 - (z * z).clamp(max=1e8)) * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    "silu": lambda z: torch.sigmoid(z) * torch.sigmoid(-z) * (2 + z * (1 - 2 * torch.sigmoid(z))),
}


def linear_act(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def activation_backward(activation: str, grad: Tensor, z: Tensor) -> Tensor:
    """grad act'(z), which is differentiable. As in torch, ReLU's is 0 where z <= 0, even if grad is
    infinite or NaN."""
    if activation == "relu":
        return torch.where(z <= 0, torch.zeros_like(grad), grad)
    return grad * DERIVATIVES[activation](z)


def activation_backward_of_saved(activation: str, grad: Tensor, saved: Tensor | None) -> Tensor:
    """The gradient by the pre-activation from what forward saved, the output or the
    pre-activation."""
    if saved is None:
        return grad
    if activation == "relu":
        return activation_backward(activation, grad, saved)
    derivative = DERIVATIVES_OF_OUTPUT.get(activation, DERIVATIVES[activation])
    return (upcast(grad) * derivative(upcast(saved))).to(grad.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, weight and bias, differentiable in their turn."""
    grad_preactivation = activation_backward(activation, grad, F.linear(x, weight, bias))
    return (
        grad_preactivation @ weight,
        grad_preactivation.t() @ x,
        grad_preactivation.sum(0),
    )
