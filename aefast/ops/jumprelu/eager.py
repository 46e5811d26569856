"""JumpReLU codes as the equations read; half precisions estimate in float32.

Reference: Rajamanoharan et al., "Jumping ahead: improving reconstruction fidelity with JumpReLU
sparse autoencoders", 2024.
"""

import torch
from torch import Tensor

from aefast.ops.shared.precision import upcast

Code = tuple[Tensor, Tensor]


def jumprelu(preactivation: Tensor, threshold: Tensor, bandwidth: float, estimator: str) -> Code:
    """The values, and which latents are active. The terms that are added for the estimate of a
    gradient are 0: only their gradients count."""
    is_off = preactivation <= threshold  # so that NaN is on
    values = torch.where(is_off, 0, preactivation)
    active = torch.where(is_off, preactivation.new_zeros(()), 1)
    if not (torch.is_grad_enabled() and threshold.requires_grad):
        return values, active
    held, threshold = upcast(threshold.detach()), upcast(threshold)
    squared = (threshold.square() - held.square()) / (2 * bandwidth)
    linear = (threshold - held) / bandwidth
    by_values, by_active = (
        weighted(term, preactivation.detach(), held, bandwidth, estimator).to(preactivation.dtype)
        for term in (squared, linear)
    )
    return values - by_values, active - by_active


def weighted(
    term: Tensor, preactivation: Tensor, threshold: Tensor, bandwidth: float, estimator: str
) -> Tensor:
    """K(u) term, u = (preactivation - threshold) / bandwidth."""
    distance = upcast(preactivation) - upcast(threshold)
    if estimator == "tanh":
        density = 1 - (2 * distance / bandwidth).tanh().square()
        return density.masked_fill(distance.isnan(), 0) * term
    return torch.where(distance.abs() < bandwidth / 2, term, 0)


def backward(
    grad_values: Tensor,
    grad_active: Tensor,
    preactivation: Tensor,
    threshold: Tensor,
    bandwidth: float,
    estimator: str,
) -> tuple[Tensor, Tensor]:
    """The gradients by pre-activations ``[B, L]`` and thresholds ``[L]``."""
    grad_preactivation = torch.where(preactivation <= threshold, 0, grad_values)
    about = preactivation.detach(), threshold.detach(), bandwidth, estimator
    by_values, by_active = (
        weighted(upcast(grad), *about).sum(0) for grad in (grad_values, grad_active)
    )
    grad_threshold = -(by_values * upcast(threshold) + by_active) / bandwidth
    return grad_preactivation, grad_threshold.to(threshold.dtype)
