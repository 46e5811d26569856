"""Gibbs sampling in a restricted Boltzmann machine as the equations read.

Reference: Hinton, "A practical guide to training restricted Boltzmann machines", 2010; Goodfellow,
Bengio, Courville, "Deep Learning", MIT Press, 2016, section 20.2.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast import random
from aefast.ops.rbm.settings import ChainSettings, Machine, Sample


def gibbs(visible: Tensor, machine: Machine, settings: ChainSettings) -> Sample:
    """k times: h from P(h given v), then v from P(v given h)."""
    initial = visible
    beta = 1.0 if settings.beta is None else settings.beta
    for step in range(settings.k):
        hidden_prob = torch.sigmoid(beta * hidden_input(visible, machine))
        hidden = sample_bernoulli(hidden_prob, settings, 2 * step)
        mean = F.linear(hidden, machine.weight.t(), machine.visible_bias)
        if machine.log_var is None:
            visible_prob = torch.sigmoid(beta * mean)
            visible = sample_bernoulli(visible_prob, settings, 2 * step + 1)
        else:
            visible_prob = mean
            deviation = torch.exp(machine.log_var / 2) / beta**0.5
            visible = mean + deviation * normal(mean, settings, 2 * step + 1)
        if settings.clamp_mask is not None:
            visible = torch.where(settings.clamp_mask, initial, visible)
    if not settings.return_probs:
        return Sample(visible, hidden, None, None)
    return Sample(visible, hidden, visible_prob, hidden_prob)


def hidden_input(visible: Tensor, machine: Machine) -> Tensor:
    """c + W (v / s^2)."""
    if machine.log_var is not None:
        visible = visible * torch.exp(-machine.log_var)
    return F.linear(visible, machine.weight, machine.hidden_bias)


def sample_bernoulli(probability: Tensor, settings: ChainSettings, step: int) -> Tensor:
    """1 where the uniform of this step, row and column is below the probability, else 0."""
    uniform = _draw(random.uniform, probability, settings, step)
    return (uniform < probability).to(probability.dtype)


def normal(like: Tensor, settings: ChainSettings, step: int) -> Tensor:
    """Standard normals of this step, row and column."""
    return _draw(random.normal, like, settings, step).to(like.dtype)


def _draw(
    distribution: Callable[..., Tensor], like: Tensor, settings: ChainSettings, step: int
) -> Tensor:
    return distribution(
        settings.seed, *like.shape, step=step, row_offset=settings.row_offset, device=like.device
    )


def free_energy(visible: Tensor, machine: Machine) -> Tensor:
    """F(v) = -ln sum_h exp(-E(v, h)); [B], in nats."""
    bias = visible.new_zeros(visible.shape[1])
    bias = bias if machine.visible_bias is None else machine.visible_bias
    visible_term = -(visible @ bias)
    if machine.log_var is not None:
        deviation = (visible - bias) * torch.exp(-machine.log_var / 2)
        visible_term = deviation.square().sum(1) / 2
    return visible_term - F.softplus(hidden_input(visible, machine)).sum(1)


def divergence_gradients(
    visible: Tensor, end: Tensor, machine: Machine
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of mean F(visible) - mean F(end), for Bernoulli units, by the weight and the
    visible and hidden biases: the statistics of the model less those of the data."""
    data_hidden = torch.sigmoid(hidden_input(visible, machine))
    end_hidden = torch.sigmoid(hidden_input(end, machine))
    return (
        end_hidden.t() @ end / len(end) - data_hidden.t() @ visible / len(visible),
        end.mean(0) - visible.mean(0),
        end_hidden.mean(0) - data_hidden.mean(0),
    )
