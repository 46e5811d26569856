"""The squared error of what sparse codes reconstruct, as the equations read.

Half precisions are computed in float32, and the loss alone is rounded.
"""

from torch import Tensor

from aefast.ops.shared.precision import upcast
from aefast.ops.topk import eager as topk


def residual(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> Tensor:
    """bias + sum_i values_i weight[indices_i] - target."""
    return topk.sparse_decode(upcast(values), indices, weight, bias) - upcast(target)


def sparse_reconstruction_loss(
    values: Tensor, indices: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed square of the residual, the residual, and its products with the rows that indices
    name."""
    difference = residual(values, indices, weight, bias, target)
    slopes = topk.sampled_product(difference, weight, indices)
    return difference.square().sum(), difference, slopes
