"""Self-test case of a code whose latents each have a threshold."""

import torch
from torch import Tensor

from aefast.ops.jumprelu import jumprelu_encode
from aefast.ops.shared.selftest_case import Case, generators, layer


def cases() -> list[Case]:
    normal, uniform = generators()
    x, weight, bias = layer(normal, uniform)
    # Whole numbers, and thresholds between them: what is above one does not depend on rounding.
    tensors = x.round(), (2 * weight).round(), (2 * bias).round(), torch.full_like(bias, 1.5)
    return [Case("jumprelu", "thresholds", _values, tensors)]


def _values(x: Tensor, weight: Tensor, bias: Tensor, threshold: Tensor) -> Tensor:
    values, active = jumprelu_encode(x, weight, bias, threshold, 1.0)
    return values + active
