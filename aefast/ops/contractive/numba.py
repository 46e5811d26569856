"""The contractive penalty in numba, around the vendor's matrix products."""

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.linear_act.op import FROM_PREACTIVATION
from aefast.ops.shared import numba as shared


def primitives() -> PenaltyPrimitives:
    return _Primitives()


class _Primitives(PenaltyPrimitives):
    """``saved`` is what linear_act calls so, and for the identity the code."""

    def encode(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor]:
        layer = backend.implementation("linear_act", "numba")
        code, preactivation = layer.forward(x, weight, bias, activation, True)
        return code, preactivation if activation in FROM_PREACTIVATION else code

    def slopes(self, saved: Tensor, activation: str) -> Tensor:
        if activation == "identity":
            return torch.ones_like(saved)
        ones = saved.new_ones(1, 1).expand_as(saved)
        return shared.map_elements(shared.activation_backward(activation), ones, saved)

    def curvatures(self, saved: Tensor, activation: str) -> Tensor:
        return shared.map_elements(shared.curvature(activation), saved)
