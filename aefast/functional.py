"""Every differentiable op as a function.

Shapes: B batch, D visible or input units, H hidden units; weights are ``[out, in]``, as in
``torch.nn.Linear``. Each op runs on the backend that :mod:`aefast.backend` names, obeys autograd
(twice), ``torch.compile``, ``torch.export``, autocast and ``torch.func``. In float64, under
``torch.vmap`` and in forward-mode differentiation the eager definition runs.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from aefast.ops import corrupt as _corrupt
from aefast.ops import linear_act as _linear_act
from aefast.ops import mlp as _mlp
from aefast.ops import reconstruction as _reconstruction

__all__ = ["autoencode", "corrupt", "linear_act", "mlp", "reconstruction_loss"]


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
    return _mlp.mlp(x, weights, biases, activations)


def autoencode(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None = None,
    decoder_bias: Tensor | None = None,
    *,
    activation: str = "sigmoid",
    output_activation: str = "identity",
) -> tuple[Tensor, Tensor]:
    """The reconstruction and the code of an autoencoder with one hidden layer.

    ``code = act(x Et + b)`` and ``reconstruction = act'(code Vt + c)``, with the encoder's weight
    E and bias b, the decoder's V and c, and the two activations. Where the loss alone is wanted,
    :func:`reconstruction_loss` is faster and takes less memory.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        encoder_weight: E, ``[H, D]``, of x's dtype and device, as all that follow.
        encoder_bias: b, ``[H]``, or None.
        decoder_weight: V, ``[D, H]``; None ties the decoder to the encoder: V = Et.
        decoder_bias: c, ``[D]``, or None.
        activation: the code's, one of :func:`linear_act`'s.
        output_activation: the reconstruction's, likewise.

    Returns:
        The reconstruction ``[..., D]`` and the code ``[..., H]``.

    Raises:
        TypeError: an argument is not a floating-point tensor, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, or an
            activation is unknown.

    Reference:
        Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, section 14.1.

    >>> reconstruction, code = autoencode(
    ...     torch.ones(1, 2), torch.ones(3, 2), None, activation="relu"
    ... )
    >>> reconstruction, code
    (tensor([[6., 6.]]), tensor([[2., 2., 2.]]))
    """
    return _reconstruction.autoencode(
        x,
        encoder_weight,
        encoder_bias,
        decoder_weight,
        decoder_bias,
        activation=activation,
        output_activation=output_activation,
    )


def reconstruction_loss(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None = None,
    decoder_bias: Tensor | None = None,
    *,
    activation: str = "sigmoid",
    output_activation: str = "identity",
    loss: str = "mse",
    target: Tensor | None = None,
    corruption: str | None = None,
    corruption_level: float = 0.0,
    reduction: str = "mean",
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
) -> Tensor:
    """The loss of an autoencoder's reconstruction, from the input to the number in one op.

    With ``x' = corrupt(x)``, the encoder's weight E and bias b, the decoder's V and c::

        code = act(x' Et + b),  z = code Vt + c,  r = act'(z),  t = target
        mse: (r - t)^2          bce: -(t ln r + (1 - t) ln(1 - r)), in nats

    for each element, then reduced as ``torch.nn.functional.mse_loss`` and its like do. Under a
    sigmoid, bce is taken from z as ``binary_cross_entropy_with_logits`` does. Neither the
    reconstruction nor its gradient is written: where a gradient is required, it is made along
    with the loss, over rows that stay in cache, and backward only multiplies it with the
    incoming one. Call it, and export it, under ``torch.no_grad()`` where no gradient is wanted:
    that takes less than half the time.

    Not so fused are ``reduction="none"``, bce of another output than a sigmoid's, half precisions
    on a CPU and autocast, which take the kernels of the parts one after the other; and on a CPU
    eager PyTorch serves where that is quicker: a loss so small that setting up takes longer than
    the work, or one of few rows where the vendor's product is the fastest.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        encoder_weight: E, ``[H, D]``, of x's dtype and device, as all that follow.
        encoder_bias: b, ``[H]``, or None.
        decoder_weight: V, ``[D, H]``; None ties the decoder to the encoder: V = Et.
        decoder_bias: c, ``[D]``, or None.
        activation: the code's, one of :func:`linear_act`'s.
        output_activation: the reconstruction's, likewise.
        loss: ``"mse"`` or ``"bce"``.
        target: what the reconstruction is compared with, of x's shape; None takes x as it came
            in. Gradients flow into it, too.
        corruption: what noise the encoder sees, one of :func:`corrupt`'s kinds, salt and pepper
            being 1 and 0; None for none. Its mask is drawn again where it is needed, never stored.
        corruption_level: :func:`corrupt`'s level; 0 without corruption.
        reduction: ``"mean"`` over all elements, ``"sum"``, or ``"none"``.
        seed: an int in [0, 2**63); None draws one from ``generator``, if there is corruption.
        generator: a ``torch.Generator``; None takes torch's default one.
        row_offset: the number of x's first row, as :func:`corrupt` takes it.

    Returns:
        A scalar, or with ``reduction="none"`` ``[..., D]``; of x's dtype and device.

    Raises:
        TypeError: an argument is of a wrong type, or the dtypes differ.
        ValueError: the shapes do not fit (the message names both), the devices differ, a choice
            is unknown, or a number outside its range.

    Reference:
        Vincent, Larochelle, Lajoie, Bengio, Manzagol, "Stacked denoising autoencoders", JMLR 11,
        2010, sections 2.2 and 3.

    >>> x, weight = torch.eye(2), torch.eye(2)
    >>> reconstruction_loss(x, weight, None, activation="relu")
    tensor(0.)
    >>> reconstruction_loss(x, weight, None, activation="relu", target=2 * x, reduction="sum")
    tensor(2.)
    """
    return _reconstruction.reconstruction_loss(
        x,
        encoder_weight,
        encoder_bias,
        decoder_weight,
        decoder_bias,
        activation=activation,
        output_activation=output_activation,
        loss=loss,
        target=target,
        corruption=corruption,
        corruption_level=corruption_level,
        reduction=reduction,
        seed=seed,
        generator=generator,
        row_offset=row_offset,
    )
