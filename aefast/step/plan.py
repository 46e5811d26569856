"""A training step of an encoder-decoder as a value: its layers, noise, penalty and loss."""

import math
from typing import NamedTuple

from aefast.ops.corrupt.noise import STEPS as NOISE_STEPS
from aefast.random import DrawStep

# The step of random numbers (aefast.random.DrawStep) that each treatment of the code draws from.
CODE_STEPS = {
    "plain": DrawStep.DIRECT,
    "dropout": DrawStep.DROPOUT,
    "gaussian": DrawStep.CODE_NOISE,
    "posterior": DrawStep.REPARAMETERIZE,
}

__all__ = ["CODE_STEPS", "NOISE_STEPS", "Plan", "PlannedLayer", "PlannedNorm"]


class PlannedNorm(NamedTuple):
    """Batch normalization as ``torch.nn.BatchNorm1d`` computes it in training mode.

    Indices are among the step's parameters; -1 for none.

    Attributes:
        scale: the index of its weight.
        shift: the index of its bias.
        mean: the index of its running mean. A step writes the batch's mean where that one's
            gradient would be.
        variance: the index of its running variance. A step writes the batch's unbiased variance
            where that one's gradient would be.
        epsilon: added to the variance.
        follows_activation: True where it normalizes the activation's output, False its input.
    """

    scale: int
    shift: int
    mean: int
    variance: int
    epsilon: float
    follows_activation: bool = False


class PlannedLayer(NamedTuple):
    """A linear layer ``act(x Wt + b)``, with batch normalization and dropout. A tied layer is
    ``act(x W + b)``, with the weight of another layer.

    Indices are among the step's parameters; -1 for none.

    Attributes:
        inputs: the number of columns of x.
        outputs: the number of columns of the result.
        activation: the name of the activation, as :class:`aefast.nn.LinearAct` takes it.
        weight: the index of the weight.
        bias: the index of the bias.
        is_tied: whether the weight is another layer's, ``[inputs, outputs]``.
        log_var_weight: the index of the weight for the second half of the outputs, the posterior's
            log variance; -1 where ``weight`` is for all outputs.
        log_var_bias: the index of the bias of that half.
        norm: batch normalization, before or after the activation; None for none.
        dropout: the probability that a unit is dropped. Layer n, counted from 0 through encoder and
            decoder, draws with ``random.child_seed(seed, n)`` of the step's seed.
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
    """A training step of an encoder-decoder.

    Attributes:
        encoder: the layers from the input to the code.
        decoder: the layers from the code to the reconstruction.
        sizes: the number of elements of each parameter.
        noise: the kind of noise on the input, as :func:`aefast.functional.corrupt` takes it; None
            for none.
        noise_level: the level of that noise.
        code_stage: the treatment of the code: ``"plain"`` for none, ``"dropout"``, ``"gaussian"``
            noise, or ``"posterior"``: the code holds a mean and a log variance, and the decoder
            gets a sample.
        code_level: the probability of dropout on the code, or the standard deviation of its noise.
        divergence_weight: the weight of the posterior's divergence from N(0, I).
        penalty: the penalty on the code: ``"none"``, ``"kl"``, ``"l1"`` or ``"contraction"``.
        penalty_weight: the weight of the penalty.
        penalty_target: the target mean activity of ``"kl"``.
        objective: the reconstruction error. ``"mse"`` and ``"bce"`` are means over all elements;
            ``"bernoulli"`` and ``"gaussian"`` are negative log-likelihoods, means over the rows.
        log_var: the index of the parameter that is the Gaussian's log variance; -1 for none.
        divergence_limit: the upper bound of the divergence's mean over the rows. A finite one also
            clamps it from below, at 0.
        log_var_bounds: the bounds that the posterior's log variance is clamped to.
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
        """The encoder's layers, then the decoder's."""
        return *self.encoder, *self.decoder

    @property
    def largest_product(self) -> int:
        """The number of multiplications for a row in the largest layer."""
        return max(layer.inputs * layer.outputs for layer in self.layers)

    @property
    def draws(self) -> bool:
        """Whether the step draws random numbers."""
        is_dropping = any(layer.dropout for layer in self.layers)
        return self.noise is not None or self.code_stage != "plain" or is_dropping
