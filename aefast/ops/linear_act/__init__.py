"""A linear layer with its activation."""

from torch import Tensor

from aefast.ops.linear_act.op import ACTIVATIONS, run
from aefast.ops.shared import checks
from aefast.ops.shared.public import public

__all__ = ["linear_act"]


@public
def linear_act(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """A linear layer with its activation: ``act(x Wt + b)``.

    Float32 products obey ``torch.set_float32_matmul_precision`` and, of ``torch.backends``, the
    newer ``fp32_precision`` switches; sums are always float32. The activation's gradient is taken
    from the pre-activation for gelu and silu, and from the output for all others but the identity.
    So the outputs of these others must not change in place before the backward pass.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weight: ``[H, D]``, of x's dtype and device.
        bias: ``[H]``, or None.
        activation: ``"identity"``, ``"relu"``, ``"leaky_relu"`` (slope 0.01), ``"sigmoid"``,
            ``"tanh"``, ``"softplus"``, ``"gelu"`` (exact) or ``"silu"``, as torch defines them.

    Returns:
        ``[..., H]``, of x's dtype and device.

    Raises:
        TypeError: an argument is not a floating-point tensor, or the dtypes differ.
        ValueError: the shapes do not fit, the devices differ, or the activation is unknown.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 14.1: the
        encoder h = f(x) and the decoder r = g(h).

    >>> linear_act(torch.ones(1, 2), torch.eye(2), torch.tensor([0.0, -3.0]), "relu")
    tensor([[1., 0.]])
    """
    checks.check_choice(activation, "activation", ACTIVATIONS)
    checks.check_tensor(x, "x")
    return run(x, weight, bias, activation)
