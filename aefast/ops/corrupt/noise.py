"""The noise of a call: its kind, level and random stream, as every backend's kernel takes them."""

from typing import NamedTuple

from torch import Tensor

from aefast.random import DrawStep

# The step that each kind is drawn at.
STEPS = {
    "masking": DrawStep.MASKING.value,
    "salt_and_pepper": DrawStep.SALT_AND_PEPPER.value,
    "gaussian": DrawStep.GAUSSIAN.value,
}
KINDS = tuple(STEPS)


class Noise(NamedTuple):
    """A kind of noise, and which random numbers it is drawn from."""

    kind: str
    level: float  # the probability of touching an element, or a Gaussian's standard deviation
    low: float  # what salt and pepper put in an element's place
    high: float
    seed: int | Tensor
    row_offset: int
    step: int

    def masking(self) -> "Noise":
        """The noise that zeros the elements which this one touches."""
        return Noise("masking", self.level, 0.0, 0.0, self.seed, self.row_offset, self.step)
