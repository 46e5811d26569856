"""A Gaussian code as the equations read: its sample, its divergence, and their gradients.

References: Kingma, Welling, "Auto-encoding variational Bayes", ICLR 2014, section 2.4 and
appendix B. Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.10.3.
"""

import torch
from torch import Tensor

from aefast import random
from aefast.ops.shared.precision import upcast


def reparameterize(mean: Tensor, log_var: Tensor, seed: int | Tensor, row_offset: int) -> Tensor:
    """mean + e^(log_var / 2) z, z standard normal."""
    noise = _noise(log_var, seed, row_offset)
    return (upcast(mean) + torch.exp(upcast(log_var) / 2) * noise).to(mean.dtype)


def scaled_noise(
    factor: Tensor, log_var: Tensor, scale: float, seed: int | Tensor, row_offset: int
) -> Tensor:
    """factor scale e^(log_var / 2) z: what every derivative of the sample by log_var is."""
    noise = _noise(log_var, seed, row_offset)
    return (upcast(factor) * (scale * torch.exp(upcast(log_var) / 2) * noise)).to(factor.dtype)


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """1/2 sum_j (mean_j^2 + e^log_var_j - 1 - log_var_j)."""
    upcast_log_var = upcast(log_var)
    terms = upcast(mean).square() + (torch.expm1(upcast_log_var) - upcast_log_var)
    return (terms.sum(-1) / 2).to(mean.dtype)


def gaussian_kl_backward(grad: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the divergence by mean and by log_var."""
    upcast_grad = upcast(grad)[..., None]
    grad_mean = upcast_grad * upcast(mean)
    grad_log_var = upcast_grad / 2 * torch.expm1(upcast(log_var))
    return grad_mean.to(mean.dtype), grad_log_var.to(mean.dtype)


def _noise(like: Tensor, seed: int | Tensor, row_offset: int) -> Tensor:
    columns = like.shape[-1] if like.dim() else 1
    rows = like.numel() // max(columns, 1)
    noise = random.normal(
        seed,
        rows,
        columns,
        step=random.DrawStep.REPARAMETERIZE,
        row_offset=row_offset,
        device=like.device,
    )
    return noise.reshape(like.shape)
