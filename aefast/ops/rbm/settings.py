"""What a restricted Boltzmann machine and a chain of its samples are made of."""

from typing import Any, NamedTuple

from torch import Tensor


class Machine(NamedTuple):
    """Its energy is -ht W (v / s^2) - ct h, and the visible units' own part -bt v; of Gaussian ones
    with the variances s^2 it is |(v - b) / s|^2 / 2. For Bernoulli units s is 1."""

    weight: Any  # W, [H, D]
    visible_bias: Any  # b, [D]
    hidden_bias: Any  # c, [H]
    log_var: Any  # ln s^2, [D], of Gaussian visible units; None of Bernoulli ones


class ChainSettings(NamedTuple):
    """How a chain runs."""

    k: int
    beta: Any  # the inverse temperature, [B, 1]; None for 1
    clamp_mask: Any  # [B, D], True where a visible unit keeps its state; None for none
    return_probs: bool
    seed: int | Tensor
    row_offset: int


class Sample(NamedTuple):
    """What :func:`aefast.functional.gibbs` returns."""

    visible: Any  # [B, D], drawn from visible_prob
    hidden: Any  # [B, H], drawn from hidden_prob
    visible_prob: Any  # P(v given hidden), or the mean of Gaussian units; None unless asked for
    hidden_prob: Any  # P(h given the visible units that the last step began with); likewise
