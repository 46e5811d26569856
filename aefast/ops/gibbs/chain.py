"""A chain of Gibbs steps, for any backend's kernels: product, draw, product, draw."""

from typing import Any, Protocol

import torch
from torch import Tensor

from aefast.ops.gibbs.settings import Machine, Sample, Settings


class Kernels(Protocol):
    """What a backend brings."""

    def operand(self, right: Tensor) -> Any:
        """The right operand [N, K] of a product left @ right.T, made ready for all steps."""

    def linear(self, left: Tensor, right: Any, bias: Tensor | None) -> Tensor:
        """left [B, K] @ right.T + bias, in memory of its own."""

    def draw_bernoulli(
        self, values: Tensor, beta: Tensor | None, keep: bool, settings: Settings, step: int
    ) -> Tensor | None:
        """values [B, N] become 1 where this step's uniform is below sigmoid(beta values), else 0;
        beta is [B]. The probabilities, if they are to be kept."""

    def draw_gaussian(
        self,
        values: Tensor,
        deviation: Tensor,
        beta: Tensor | None,
        keep: bool,
        settings: Settings,
        step: int,
    ) -> Tensor | None:
        """values [B, N] += deviation [N] / sqrt(beta) times this step's normals; the means, if they
        are to be kept."""


def gibbs(kernels: Kernels, visible: Tensor, machine: Machine, settings: Settings) -> Sample:
    weight, transposed = kernels.operand(machine.weight), kernels.operand(machine.weight.t())
    beta = None if settings.beta is None else settings.beta.reshape(-1).float().contiguous()
    precision = deviation = None
    if machine.log_var is not None:
        precision, deviation = torch.exp(-machine.log_var), torch.exp(machine.log_var / 2)
    given, hidden_prob, visible_prob = visible, None, None
    for step in range(settings.k):
        keep = settings.return_probs and step == settings.k - 1
        scaled = visible if precision is None else visible * precision
        hidden = kernels.linear(scaled, weight, machine.hidden_bias)
        hidden_prob = kernels.draw_bernoulli(hidden, beta, keep, settings, 2 * step)
        visible = kernels.linear(hidden, transposed, machine.visible_bias)
        if deviation is None:
            visible_prob = kernels.draw_bernoulli(visible, beta, keep, settings, 2 * step + 1)
        else:
            visible_prob = kernels.draw_gaussian(
                visible, deviation, beta, keep, settings, 2 * step + 1
            )
        if settings.clamp_mask is not None:
            visible = torch.where(settings.clamp_mask, given, visible)
    return Sample(visible, hidden, visible_prob, hidden_prob)
