"""Sparsity penalties as the equations read; half precisions are added up in float32.

References: Ng, "Sparse autoencoder", CS294A lecture notes, Stanford, 2011. Goodfellow, Bengio,
Courville, "Deep Learning", 2016, section 14.2.1.
"""

import torch
from torch import Tensor

from aefast.ops.shared import checks
from aefast.ops.shared.precision import upcast

# Mean activities are clamped to [EPSILON, 1 - EPSILON]. A unit that is saturated over a whole
# batch, as bfloat16's sigmoid(7) is, would have an infinite penalty and a gradient of infinity * 0.
EPSILON = torch.finfo(torch.float32).eps


def kl_sparsity(code: Tensor, target: float) -> Tensor:
    """sum_j KL(target, mean activity of unit j), in nats; a scalar."""
    return divergence(mean_activities(code), target).sum().to(code.dtype)


def l1_sparsity(code: Tensor) -> Tensor:
    """The mean over the rows of sum_j |h_j|; a scalar."""
    return upcast(code).abs().sum(-1).mean().to(code.dtype)


def divergence(mean: Tensor, target: float) -> Tensor:
    """KL(target, mean) of two Bernoulli distributions, unit by unit."""
    mean = _bounded(mean)
    return target * torch.log(target / mean) + (1 - target) * torch.log((1 - target) / (1 - mean))


def derivative(mean: Tensor, target: float) -> Tensor:
    mean = _bounded(mean)
    return (1 - target) / (1 - mean) - target / mean


def slope(code: Tensor, target: float) -> Tensor:
    """The KL penalty's gradient by any row of the code, [H]: the same for all rows."""
    return derivative(mean_activities(code), target) / (code.numel() // max(code.shape[-1], 1))


def l1_gradient(code: Tensor, grad: Tensor) -> Tensor:
    rows = code.numel() // max(code.shape[-1], 1)
    return (upcast(grad) / rows * torch.sign(upcast(code))).to(code.dtype)


def check_activities(mean: Tensor) -> None:
    """A divergence takes probabilities.

    Raises:
        ValueError: the mean activity of a unit is none.
    """
    if mean.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(mean.detach()))
    if low < 0 or high > 1:  # NaN is neither
        raise ValueError(
            f"code has a unit of mean activity {checks.shown_outside(low if low < 0 else high)}; "
            "the KL penalty takes numbers in [0, 1]"
        )


def mean_activities(code: Tensor) -> Tensor:
    """The mean of each unit over all rows, [H]."""
    return upcast(code)[None].flatten(0, -2).mean(0)


def _bounded(mean: Tensor) -> Tensor:
    """Clamped, with a straight-through gradient: outside the bounds it still points inwards."""
    value = mean.detach()
    return value.clamp(EPSILON, 1 - EPSILON) + torch.nan_to_num(mean - value)
