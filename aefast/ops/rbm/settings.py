"""A restricted Boltzmann machine, how a chain of its samples runs, and a sample."""

from typing import NamedTuple

from torch import Tensor

from aefast.ops.shared.public import result


class Machine(NamedTuple):
    """The parameters of a restricted Boltzmann machine.

    Its energy is -ht W (v / s^2) - ct h and the visible units' own part: -bt v of Bernoulli units,
    whose s is 1, and |(v - b) / s|^2 / 2 of Gaussian units with the variances s^2.
    """

    weight: Tensor  # W, [H, D]
    visible_bias: Tensor | None  # b, [D]
    hidden_bias: Tensor | None  # c, [H]
    log_var: Tensor | None  # ln s^2, [D], of Gaussian visible units; None of Bernoulli ones


class ChainSettings(NamedTuple):
    """How a chain runs."""

    k: int
    beta: Tensor | None  # the inverse temperature, [B, 1]; None for 1
    clamp_mask: Tensor | None  # [B, D], True where a visible unit keeps its state; None for none
    return_probs: bool
    seed: int | Tensor
    row_offset: int


@result
class Sample(NamedTuple):
    """What :func:`aefast.functional.gibbs` returns.

    Attributes:
        visible: ``[B, D]``, drawn from visible_prob.
        hidden: ``[B, H]``, drawn from hidden_prob.
        visible_prob: ``[B, D]``, of the last step: P(v given hidden), or Gaussian units' means;
            None unless it is asked for.
        hidden_prob: ``[B, H]``, of the last step: P(h given the visible units that it began with);
            None unless it is asked for.
    """

    visible: Tensor
    hidden: Tensor
    visible_prob: Tensor | None
    hidden_prob: Tensor | None
