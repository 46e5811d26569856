"""The lasso of sparse coding by its Gram matrix and products: all that a solver reads."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Problem(NamedTuple):
    """1/2 |x - z D|^2 = 1/2 |x|^2 - z Dx + 1/2 z G z, and when to stop."""

    correlation: Tensor  # D x, [B, K]
    gram: Tensor  # G = D Dt, [K, K]
    energy: Tensor  # |x|^2, [B]
    penalty: float
    tolerance: float  # of the duality gap, relative to the objective of a code of zeros
    steps: int


def pose(
    x: Tensor,
    dictionary: Tensor,
    penalty: float,
    tolerance: float,
    steps: int,
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Problem, Tensor]:
    """The problem, and which rows [B] have one, that is, are finite; of the others it holds zeros.

    multiply: ``multiply(left, right)`` is left @ right.T.
    """
    correlation, gram = multiply(x, dictionary), multiply(dictionary, dictionary)
    energy = x.square().sum(1)
    # Where something is not finite, this is NaN.
    trace = energy + 0 * (energy + correlation.abs().amax(1) + gram.abs().amax())
    finite = trace == trace
    zeros = {"nan": 0.0, "posinf": 0.0, "neginf": 0.0}
    problem = Problem(
        torch.where(finite[:, None], correlation, 0),
        gram.nan_to_num(**zeros),
        torch.where(finite, energy, 0),
        penalty,
        tolerance,
        steps,
    )
    return problem, finite
