"""Every differentiable op as a function.

Shapes: B batch, D visible or input units, H hidden units; weights are ``[out, in]``, as in
``torch.nn.Linear``. Each op runs on the backend that :mod:`aefast.backend` names, obeys autograd
(twice), ``torch.compile``, ``torch.export``, autocast and ``torch.func``. In float64, under
``torch.vmap`` and in forward-mode differentiation the eager definition runs.
"""

import torch
from torch import Tensor

from aefast.ops import corrupt as _corrupt
from aefast.ops import linear_act as _linear_act

__all__ = ["corrupt", "linear_act"]


def corrupt(
    x: Tensor,
    kind: str,
    level: float,
    *,
    low: float = 0.0,
    high: float = 1.0,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Tensor:
    """A corrupted copy of ``x``: the noise injection of a denoising autoencoder.

    With u uniform in [0, 1) and z standard normal, drawn anew for each element:

    ===================  ==========================================================
    ``kind``             result
    ===================  ==========================================================
    ``"masking"``        0 where u < level, else x
    ``"salt_and_pepper"``  low where u < level / 2, high where level / 2 <= u < level, else x
    ``"gaussian"``       x + level z
    ===================  ==========================================================

    The numbers are a pure function of (seed, row, column): see :mod:`aefast.random`. The same
    seed corrupts the same elements on every device, backend and thread count, and backward draws
    the mask again instead of storing it. The gradient passes where x passed; through Gaussian
    noise it passes everywhere.

    Args:
        x: any shape; float32, bfloat16, float16 or float64. More than two dimensions count as
            rows of the last one.
        kind: ``"masking"``, ``"salt_and_pepper"`` or ``"gaussian"``.
        level: the probability of touching an element, in [0, 1]; for ``"gaussian"`` the
            standard deviation, at least 0. A probability is rounded to float32. Under
            ``torch.compile`` it is a constant of the graph: each new one compiles anew.
        low: the value of salt and pepper's lower half.
        high: the value of its upper half.
        seed: an int in [0, 2**63); None draws one from ``generator``.
        generator: a ``torch.Generator``; None takes torch's default one, so that
            ``torch.manual_seed`` governs.
        row_offset: the number of x's first row, an int in [0, 2**62). A rank that holds rows
            n, n + 1, ... of a batch passes n, and draws what one process would draw for all.

    Returns:
        The corrupted copy, with x's shape, dtype and device, contiguous.

    Raises:
        TypeError: x is not a floating-point tensor, or another argument is of a wrong type.
        ValueError: kind is unknown, or level, low, high, seed or row_offset outside its range.

    Reference:
        Vincent, Larochelle, Lajoie, Bengio, Manzagol, "Stacked denoising autoencoders", JMLR 11,
        2010, section 3.3.

    >>> corrupt(torch.ones(2, 4), "masking", 0.5, seed=0)
    tensor([[0., 1., 1., 1.],
            [0., 1., 0., 0.]])
    """
    return _corrupt.corrupt(
        x,
        kind,
        level,
        low=low,
        high=high,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )


def linear_act(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "identity"
) -> Tensor:
    """A linear layer with its activation: ``act(x Wt + b)``.

    Float32 products obey ``torch.get_float32_matmul_precision()``; sums are always float32. The
    activation's gradient is taken from the output where that tells it, and from the
    pre-activation for gelu and silu.

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
    return _linear_act.linear_act(x, weight, bias, activation)
