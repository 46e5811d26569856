"""What a training step computes: the layers, what happens between them, and the loss."""

import math
from typing import NamedTuple

from aefast.ops.corrupt.noise import STEPS as NOISE_STEPS
from aefast.random import Step

# The number of the random step (see aefast.random.Step) of each kind of noise in the code.
CODE_STEPS = {
    "plain": Step.DIRECT,
    "dropout": Step.DROPOUT,
    "gaussian": Step.CODE_NOISE,
    "posterior": Step.REPARAMETERIZE,
}

__all__ = ["CODE_STEPS", "NOISE_STEPS", "Plan", "PlannedLayer", "PlannedNorm"]


class PlannedNorm(NamedTuple):
    """Batch normalization as ``torch.nn.BatchNorm1d`` does it in training mode.

    Attributes:
        scale: the number of its weight among the step's parameters; -1 for none.
        shift: that of its bias.
        mean: that of its running mean; -1 where none is tracked. A step writes the batch's mean
            into the memory of its gradient.
        variance: that of its running variance; its gradient's memory gets the batch's, unbiased.
        epsilon: added to the variance.
        follows_activation: whether it normalizes the activation's output; else its input.
    """

    scale: int
    shift: int
    mean: int
    variance: int
    epsilon: float
    follows_activation: bool = False


class PlannedLayer(NamedTuple):
    """``act(x Wt + b)``; of a tied layer ``act(x W + b)``, with another layer's weight. Then
    dropout.

    Attributes:
        inputs: the size of a row of x.
        outputs: the size of a row of the result.
        activation: one of :class:`aefast.nn.LinearAct`'s.
        weight: its number among the step's parameters.
        bias: its number; -1 for none.
        is_tied: whether the weight is ``[inputs, outputs]``, another layer's.
        log_var_weight: the number of the weight that gives the second half of the outputs, the
            posterior's log variance; -1 where ``weight`` gives all.
        log_var_bias: of its bias.
        norm: batch normalization before the activation, or after it; None for none.
        dropout: the probability that a unit is dropped. The layer, counted from 0 through encoder
            and decoder, draws with that child of the step's seed.
    """

    inputs: int
    outputs: int
    activation: str
    weight: int
    bias: int
    is_tied: bool = False
    log_var_weight: int = -1
    log_var_bias: int = -1
    norm: PlannedNorm | None = None
    dropout: float = 0.0


class Plan(NamedTuple):
    """A step of an encoder-decoder.

    Attributes:
        encoder: from the input to the code.
        decoder: from the code to the reconstruction.
        sizes: of the parameters, in elements.
        noise: of the input, as :func:`aefast.functional.corrupt` takes it; None for none.
        noise_level: its level.
        code_stage: what happens to the code: ``"plain"`` nothing; ``"dropout"``; ``"gaussian"``
            noise; ``"posterior"``: it holds a mean and a log variance, of which a sample is drawn.
        code_level: of dropout the probability, of noise the standard deviation.
        divergence_weight: of the posterior's divergence from N(0, I).
        penalty: ``"none"``, or on the code ``"kl"``, ``"l1"`` or ``"contraction"``.
        penalty_weight: its factor.
        penalty_target: of ``"kl"``, the mean activity.
        objective: ``"mse"`` or ``"bce"``, means over all elements; ``"bernoulli"`` or
            ``"gaussian"``, negative log-likelihoods of a row, whose mean is taken.
        log_var: the number of the parameter that is the Gaussian's log variance; -1 for none.
        divergence_limit: the divergence's mean over the rows is clamped to 0 and this; an infinite
            one to nothing.
        log_var_bounds: the posterior's log variance is clamped to these.
    """

    encoder: tuple[PlannedLayer, ...]
    decoder: tuple[PlannedLayer, ...]
    sizes: tuple[int, ...]
    noise: str | None = None
    noise_level: float = 0.0
    code_stage: str = "plain"
    code_level: float = 0.0
    divergence_weight: float = 1.0
    penalty: str = "none"
    penalty_weight: float = 0.0
    penalty_target: float = 0.0
    objective: str = "mse"
    log_var: int = -1
    divergence_limit: float = math.inf
    log_var_bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def layers(self) -> tuple[PlannedLayer, ...]:
        """The encoder's and the decoder's."""
        return *self.encoder, *self.decoder

    @property
    def largest_product(self) -> int:
        """Multiplications a row in the widest layer."""
        return max(layer.inputs * layer.outputs for layer in self.layers)

    @property
    def draws(self) -> bool:
        """Whether the step takes random numbers."""
        is_dropping = any(layer.dropout for layer in self.layers)
        return self.noise is not None or self.code_stage != "plain" or is_dropping
