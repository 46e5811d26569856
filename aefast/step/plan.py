"""What a training step computes: the layers, what happens between them, and the loss."""

from typing import NamedTuple

from aefast.ops.corrupt.noise import STEPS as NOISE_STEPS
from aefast.random import Step

# The step that each kind of noise in the code is drawn at.
CODE_STEPS = {
    "plain": Step.DIRECT,
    "dropout": Step.DROPOUT,
    "gaussian": Step.CODE_NOISE,
    "posterior": Step.REPARAMETERIZE,
}

__all__ = ["CODE_STEPS", "NOISE_STEPS", "Plan", "PlannedLayer"]


class PlannedLayer(NamedTuple):
    """``act(x Wt + b)``; of a tied layer ``act(x W + b)``, with another layer's weight.

    Attributes:
        inputs: the size of a row of x.
        outputs: the size of a row of the result.
        activation: one of :class:`aefast.nn.LinearAct`'s.
        weight: its number among the step's parameters.
        bias: its number; -1 for none.
        is_tied: whether the weight is ``[inputs, outputs]``, another layer's.
    """

    inputs: int
    outputs: int
    activation: str
    weight: int
    bias: int
    is_tied: bool = False


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

    @property
    def largest_product(self) -> int:
        """Multiplications a row in the widest layer."""
        return max(layer.inputs * layer.outputs for layer in (*self.encoder, *self.decoder))

    @property
    def draws(self) -> bool:
        """Whether the step takes random numbers."""
        return self.noise is not None or self.code_stage != "plain"
