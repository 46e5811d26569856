"""Codes whose latents each have a threshold, or a gate."""

from typing import Any

from torch import Tensor

from aefast.ops.jumprelu.gated import GatedCode, gated
from aefast.ops.jumprelu.op import ESTIMATORS, JumpReLUCode, check_of_latents, jumprelu
from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.public import public

__all__ = ["gated_encode", "jumprelu_encode"]


@public
def jumprelu_encode(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    threshold: Tensor,
    bandwidth: float,
    estimator: str = "rectangle",
) -> JumpReLUCode:
    """The pre-activations that are above their latent's threshold, and which those are::

        z = x @ weight.T + bias
        active = z > threshold,    values = z * active

    A step has no gradient. A threshold's is estimated from the pre-activations about it (straight
    through), with a density K of ``u = (z - threshold) / bandwidth``::

        d values / d threshold = -K(u) threshold / bandwidth
        d active / d threshold = -K(u) / bandwidth

        K(u) = 1 where |u| < 1/2, else 0      "rectangle"
        K(u) = 1 - tanh(2 u) ** 2             "tanh", the slope of (1 + tanh(2 u)) / 2

    and ``d values / d z = active``, ``d active / d z = 0``. The product is a :func:`linear_act`.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weight: a latent a row, ``[L, D]``, of the same dtype and device, as bias and threshold.
        bias: ``[L]``, or None.
        threshold: ``[L]``, any finite numbers; a model's are 0 or more.
        bandwidth: above 0, in units of a pre-activation.
        estimator: ``"rectangle"``, or ``"tanh"``, which is as high and as large, and has a gradient
            for a threshold that no pre-activation is near, too.

    Returns:
        A named tuple ``(values, active)``, both ``[..., L]`` and of x's dtype: active is 0 or 1.
        NaN is active.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, the
            bandwidth is not above 0, or there is no such estimator.

    Reference:
        Rajamanoharan et al., "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse
        autoencoders", 2024.

    >>> x, threshold = torch.tensor([[0.5, 2.0, -1.0]]), torch.tensor([1.0, 1.0, 0.0])
    >>> jumprelu_encode(x, torch.eye(3), None, threshold, 0.1).values
    tensor([[0., 2., 0.]])
    """
    checks.check_tensor(x, "x")
    bandwidth = checks.check_positive(bandwidth, "bandwidth")
    checks.check_choice(estimator, "estimator", ESTIMATORS)
    cast: Any = dispatch.cast_operands(x, weight, bias, threshold)
    check_of_latents(cast[3], "threshold", cast[1], cast[0])
    return jumprelu(linear_act(*cast[:3]), cast[3], bandwidth, estimator)


@public
def gated_encode(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    magnitude_scale: Tensor,
    magnitude_bias: Tensor,
) -> GatedCode:
    """A code in which a gate says which latents are active, and a second path how much::

        z = x @ weight.T
        gate = z + bias,    opened = relu(gate)
        magnitude = relu(magnitude_scale z + magnitude_bias)
        values = magnitude where gate > 0, else 0

    The gates have no gradient by the values: a penalty on ``opened``, and the error of what it
    reconstructs, train them. The product is a :func:`linear_act`.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weight: a latent a row, ``[L, D]``, of the same dtype and device, as all others.
        bias: of the gates, ``[L]``.
        magnitude_scale: ``[L]``; a model's is the exponential of its parameter.
        magnitude_bias: ``[L]``.

    Returns:
        A named tuple ``(values, opened)``, both ``[..., L]`` and of x's dtype. A gate that is NaN
        is open.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), or the devices differ.

    Reference:
        Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders", 2024.

    >>> x, ones = torch.tensor([[0.5, 2.0, -1.0]]), torch.ones(3)
    >>> gated_encode(x, torch.eye(3), -ones, 3 * ones, ones)
    GatedCode(values=tensor([[0., 7., 0.]]), opened=tensor([[0., 1., 0.]]))
    """
    checks.check_tensor(x, "x")
    cast: Any = dispatch.cast_operands(x, weight, bias, magnitude_scale, magnitude_bias)
    x, weight, *parameters = cast
    for name, parameter in zip(
        ("bias", "magnitude_scale", "magnitude_bias"), parameters, strict=True
    ):
        check_of_latents(parameter, name, weight, x)
    values, opened, _ = gated(linear_act(x, weight, None), *parameters)
    return GatedCode(values, opened)
