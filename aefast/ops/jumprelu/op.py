"""JumpReLU codes, a threshold a latent: checks, and the straight-through gradient of the step.

It has no kernel of its own: linear_act computes the product.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from aefast.ops.shared import checks
from aefast.ops.shared.public import result


@result
class JumpReLUCode(NamedTuple):
    """A dense code, and which of its latents are active, as numbers; both ``[..., L]``."""

    values: Tensor
    active: Tensor


ESTIMATORS = ("rectangle", "tanh")


def check_threshold(threshold: Tensor, weight: Tensor, x: Tensor) -> None:
    checks.check_like(threshold, "threshold", x, "x")
    checks.check_tensor(weight, "weight")
    if threshold.shape != weight.shape[:1]:
        raise ValueError(
            f"threshold has shape {list(threshold.shape)}; "
            f"with weight's shape {list(weight.shape)} it takes {list(weight.shape[:1])}"
        )


def jumprelu(
    preactivation: Tensor, threshold: Tensor, bandwidth: float, estimator: str
) -> JumpReLUCode:
    """The terms that are added for the gradient's estimate are 0: only their gradients count."""
    is_off = preactivation <= threshold  # so that NaN is on
    values = torch.where(is_off, 0, preactivation)
    active = torch.where(is_off, preactivation.new_zeros(()), 1)
    if not (torch.is_grad_enabled() and threshold.requires_grad):
        return JumpReLUCode(values, active)
    held = threshold.detach()
    distance = preactivation.detach() - held
    squared = (threshold.square() - held.square()) / (2 * bandwidth)
    linear = (threshold - held) / bandwidth
    if estimator == "tanh":
        density = (1 - (2 * distance / bandwidth).tanh().square()).masked_fill(distance.isnan(), 0)
        return JumpReLUCode(values - density * squared, active - density * linear)
    is_near = distance.abs() < bandwidth / 2
    return JumpReLUCode(
        values - torch.where(is_near, squared, 0), active - torch.where(is_near, linear, 0)
    )
