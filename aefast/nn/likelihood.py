"""The distribution of the visible units given a code: what a decoder's last layer means."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from aefast import random
from aefast.ops.corrupt.noise import Noise
from aefast.ops.corrupt.op import corrupt_with
from aefast.ops.shared import checks
from aefast.random import DrawStep

DECODER_KINDS = ("bernoulli", "gaussian")

# The activation of the last layer that gives the mean.
MEAN_ACTIVATIONS = {"bernoulli": "sigmoid", "gaussian": "identity"}


def check_visible(x: Tensor, kind: str) -> None:
    """Bernoulli units take numbers in [0, 1]; a GPU is not asked about them."""
    if kind == "bernoulli":
        checks.check_tensor(x, "x")
        checks.check_unit_interval(x, "x", "Bernoulli units take")


def log_likelihood(kind: str, x: Tensor, output: Tensor, log_var: Tensor | None) -> Tensor:
    """ln p(x | h) at each row, in nats: ``[..., D]`` to ``[...]``.

    ``output`` is the last layer's before its activation: the logits of Bernoulli units, the means
    of Gaussian ones, whose variance is exp(``log_var``), of all or of each.
    """
    if kind == "bernoulli":
        x = x.expand_as(output)
        return -F.binary_cross_entropy_with_logits(output, x, reduction="none").sum(-1)
    assert log_var is not None
    square = (x - output).square() * (-log_var).exp()
    return -0.5 * (square + log_var + math.log(2 * math.pi)).sum(-1)


def distribution(kind: str, output: Tensor, log_var: Tensor | None) -> Distribution:
    """p(x | h), over whole rows, of the same ``output``."""
    if kind == "bernoulli":
        return Independent(Bernoulli(logits=output, validate_args=False), 1)
    assert log_var is not None
    return Independent(Normal(output, (0.5 * log_var).exp().expand_as(output)), 1)


def sample_visible(mean: Tensor, log_var: Tensor | None, seed: int) -> Tensor:
    """x ~ p(x | h) of means ``[B, D]``; of Bernoulli units where there is no variance."""
    if log_var is None:
        uniform = random.uniform(seed, *mean.shape, step=DrawStep.VISIBLE, device=mean.device)
        return (uniform < mean).to(mean.dtype)
    noise = Noise("gaussian", 1.0, 0.0, 1.0, seed, 0, DrawStep.VISIBLE.value)
    return mean + (0.5 * log_var).exp() * corrupt_with(torch.zeros_like(mean), noise)


def bounded(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """A code's distribution, whose squares and variances stay finite however far off its row is.

    Else an outlier's likelihood would be a difference of infinities. Where gradients are taken
    nothing is changed: training that diverges shows it.
    """
    if torch.is_grad_enabled():
        return mean, log_var
    farthest = torch.finfo(mean.dtype).max ** 0.45
    return mean.clamp(-farthest, farthest), log_var.clamp(max=2 * math.log(farthest))


def floored(log_likelihood: Tensor) -> Tensor:
    """A very low number in the place of -inf, so that a set's sum is finite; NaN stays NaN. Where
    gradients are taken nothing is changed."""
    if log_likelihood.requires_grad:
        return log_likelihood
    lowest = -(torch.finfo(log_likelihood.dtype).max ** 0.9)
    return log_likelihood.nan_to_num(nan=math.nan, posinf=math.inf, neginf=lowest)
