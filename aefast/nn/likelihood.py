"""The distribution of the visible units given a code: what a decoder's last layer means."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from aefast import random
from aefast.functional import corrupt

DECODER_KINDS = ("bernoulli", "gaussian")

# The activation of the last layer that gives the mean.
MEAN_ACTIVATIONS = {"bernoulli": "sigmoid", "gaussian": "identity"}


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


def draw_visible(mean: Tensor, log_var: Tensor | None, seed: int) -> Tensor:
    """x ~ p(x | h) of means ``[B, D]``; of Bernoulli units where there is no variance."""
    if log_var is None:
        uniform = random.uniform(seed, *mean.shape, device=mean.device)
        return (uniform < mean).to(mean.dtype)
    return mean + (0.5 * log_var).exp() * corrupt(torch.zeros_like(mean), "gaussian", 1, seed=seed)
