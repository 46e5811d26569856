"""A stack of linear layers with their activations."""

from collections.abc import Iterable

from torch import Tensor

from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.mlp.op import check_layers
from aefast.ops.shared import checks
from aefast.ops.shared.public import public

__all__ = ["mlp"]


@public
def mlp(
    x: Tensor,
    weights: Iterable[Tensor],
    biases: Iterable[Tensor | None],
    activations: Iterable[str],
) -> Tensor:
    """A stack of layers: ``h = act_l(h Wt_l + b_l)`` for each layer l, starting from ``h = x``.

    What a deep encoder or decoder is made of. Each layer is a :func:`linear_act`.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        weights: ``[H1, D]``, ``[H2, H1]``, ..., of x's dtype and device; at least one.
        biases: ``[H1]``, ``[H2]``, ... or None, one for each weight.
        activations: the name of one of :func:`linear_act`'s for each weight.

    Returns:
        ``[..., H]`` with the H of the last layer, of x's dtype and device.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the lists differ in length or are empty, the shapes of two layers do not fit
            (the message names both), the devices differ, or an activation is unknown.

    Reference:
        Hinton, Salakhutdinov, "Reducing the dimensionality of data with neural networks",
        Science 313, 2006.

    >>> weights = [torch.ones(3, 2), torch.ones(1, 3)]
    >>> mlp(torch.ones(1, 2), weights, [None, torch.tensor([-4.0])], ["relu", "identity"])
    tensor([[2.]])
    """
    checks.check_tensor(x, "x")
    layers = check_layers(x, weights, biases, activations)
    for weight, bias, activation in layers:
        x = linear_act(x, weight, bias, activation)
    return x
