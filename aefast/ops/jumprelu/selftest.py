"""Self-test cases of codes whose latents each have a threshold, or a gate."""

import torch
from torch import Tensor

from aefast.ops.jumprelu import jumprelu_encode
from aefast.ops.jumprelu.gated import gated
from aefast.ops.jumprelu.op import counted
from aefast.ops.shared.selftest_case import Case, generators, layer


def cases() -> list[Case]:
    normal, uniform = generators()
    x, weight, bias = layer(normal, uniform)
    # Whole numbers, and thresholds between them: what is above one does not depend on rounding.
    tensors = x.round(), (2 * weight).round(), (2 * bias).round(), torch.full_like(bias, 1.5)
    # Whole again: neither does the sign of a magnitude.
    gates = [(2 * t).round() for t in (normal(33, 31), *(normal(31) for _ in range(3)))]
    return [
        Case("jumprelu", "thresholds", _values, tensors),
        Case("jumprelu", "counted", _counted, (normal(33, 31), uniform(31))),
        Case("jumprelu", "gates", gated, tuple(gates)),
    ]


def _values(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    values, active = jumprelu_encode(x, weight, bias, threshold, 1.0)
    return values + active


def _counted(preactivation: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    return counted(preactivation, threshold, 1.0, "tanh")
