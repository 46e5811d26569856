"""The primitives of a Gibbs chain and of contrastive divergence, in plain PyTorch.

A backend implements ``sample_units`` and overrides the other primitives that it has a kernel for.
Between the steps it may keep the states in a form of its own, as bits: here they are float tensors
[B, N].
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.rbm.settings import ChainSettings

# A backend's own kinds: float tensors, or bit matrices; a right operand packed for its product;
# probabilities in the kind that its add_product takes.
States = Any
Operand = Any
Probabilities = Any


class ChainPrimitives:
    """The operations that Gibbs steps are composed of. A backend overrides those that it has
    kernels for; these are PyTorch's."""

    # Whether bernoulli_steps is implemented.
    takes_bernoulli_steps = False

    def states(self, visible: Tensor) -> States:
        """Visible units [B, D] in the kind that the steps take."""
        return visible

    def tensor(self, states: States) -> Tensor:
        """States as a float tensor [B, N]."""
        return states

    def clamp(self, sampled: States, initial: States, mask: Tensor) -> States:
        """``initial`` where the mask [B, D] is True, else ``sampled``."""
        return torch.where(mask, initial, sampled)

    def operand(self, right: Tensor) -> Operand:
        """The right operand [N, K] of a product left @ right.T, made ready for all steps."""
        return right

    def linear(self, left: States, right: Operand, bias: Tensor | None) -> Tensor:
        """left [B, K] @ right.T + bias, in memory of its own."""
        return F.linear(left, right, bias)

    def sample_units(
        self,
        values: Tensor,
        deviation: Tensor | None,
        factor: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> Tensor | None:
        """values [B, N] become states.

        Without a deviation they are Bernoulli units' inputs: 1 where this step's uniform is below
        sigmoid(factor values), else 0. With one, [N], they are Gaussian units' means, to which
        factor times deviation times this step's normals is added. factor is [B], None for 1.
        Returns the probabilities or means, if they are to be kept.
        """
        raise NotImplementedError

    def sample_bernoulli(
        self,
        left: States,
        right: Operand,
        bias: Tensor | None,
        beta: Tensor | None,
        keep: bool,
        settings: ChainSettings,
        step: int,
    ) -> tuple[States, Tensor | None]:
        """Half a step: the units' states given those of ``left``, and the probabilities."""
        values = self.linear(left, right, bias)
        return values, self.sample_units(values, None, beta, keep, settings, step)

    def bernoulli_steps(
        self,
        hidden: States,
        visible: States,
        weight: Operand,
        transposed: Operand,
        biases: tuple[Tensor | None, Tensor | None],
        beta: Tensor | None,
        settings: ChainSettings,
        steps: range,
    ) -> None:
        """Whole steps, without Python between them, from the states that the step before sampled;
        these are written over. biases: of the hidden and of the visible units."""
        raise NotImplementedError

    def statistics(
        self, states: States, weight: Operand, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, Probabilities, Tensor]:
        """Statistics of the hidden units' inputs a = c + W v: the sum of softplus(a) over rows and
        units, sigmoid(a) times scale [B, H], and the sum of that over the rows [H]."""
        inputs = self.linear(states, weight, bias)
        energy = F.softplus(inputs).sum(1).sum()
        probabilities = inputs.sigmoid_().mul_(scale)
        return energy, probabilities, probabilities.sum(0)

    def add_product(
        self, probabilities: Probabilities, states: States, total: Tensor | None
    ) -> Tensor:
        """total + probabilities [B, H].T @ states [B, D], in total's memory; None for none yet."""
        if total is None:
            return probabilities.t() @ states
        return total.addmm_(probabilities.t(), states)

    def row_sum(self, states: States) -> Tensor:
        """The sum over the rows [D]."""
        return self.tensor(states).sum(0)
