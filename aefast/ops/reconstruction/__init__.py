"""An autoencoder from its input to the loss."""

import torch
from torch import Tensor

from aefast.deprecation import renamed_argument
from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.linear_act.op import run as linear_act
from aefast.ops.reconstruction import eager
from aefast.ops.reconstruction.op import (
    LOSSES,
    REDUCTIONS,
    check_contraction,
    check_corruption,
    check_tensors,
    run,
)
from aefast.ops.reconstruction.settings import LossInputs, LossSettings
from aefast.ops.shared import checks, dispatch
from aefast.ops.shared.public import public

__all__ = ["autoencode", "reconstruction_loss"]


@public
def reconstruction_loss(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None = None,
    decoder_bias: Tensor | None = None,
    *,
    activation: str = "sigmoid",
    output_activation: str = "identity",
    reconstruction: str = "mse",
    target: Tensor | None = None,
    corruption: str | None = None,
    corruption_level: float = 0.0,
    contraction: float = 0.0,
    reduction: str = "mean",
    seed: int | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    loss: str | None = None,
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

    Between the passes a loss holds those gradients: of a small batch more than eager PyTorch's
    activations, of a large one less. Of small batches' losses that are summed before one backward
    pass, only the first holds its gradients; the others make theirs in that pass, which takes some
    20% longer.

    Under autocast the same kernels serve in its place, at least as exact: on a GPU in its dtype; on
    a CPU in float32, with one bfloat16 product for bfloat16 and three for float16 on matrix units.
    Sums and the loss are float32, and so are the gradients of float32 parameters. Without matrix
    units float32 products are the quicker ones too, except where a CPU's vector units multiply
    bfloat16 (AVX512-BF16): there PyTorch's own run under autocast.

    These are computed by the kernels of the parts, one after the other: ``reduction="none"``; bce
    of another output than a sigmoid's; half precisions on a CPU; graphs of torch.compile under
    autocast. On a CPU eager PyTorch serves where it is quicker: for a loss so small that setting up
    takes longer than the work, or one of few rows where the vendor's product is the fastest.

    Args:
        x: ``[..., D]``; float32, bfloat16, float16 or float64.
        encoder_weight: E, ``[H, D]``, of x's dtype and device, as all that follow.
        encoder_bias: b, ``[H]``, or None.
        decoder_weight: V, ``[D, H]``; None ties the decoder to the encoder: V = Et.
        decoder_bias: c, ``[D]``, or None.
        activation: the code's, one of :func:`linear_act`'s.
        output_activation: the reconstruction's, likewise.
        reconstruction: ``"mse"`` or ``"bce"``, which takes targets in [0, 1]. They are not looked
            at: of a small batch a pass over them takes over 1 % of the loss. The models, estimators
            and commands do look.
        target: what the reconstruction is compared with, of x's shape; None takes x as it came
            in. Gradients flow into it, too.
        corruption: what noise the encoder sees, one of :func:`corrupt`'s kinds, salt and pepper
            being 1 and 0; None for none. Its mask is drawn again where it is needed, never stored.
        corruption_level: :func:`corrupt`'s level; 0 without corruption.
        contraction: the factor of the encoder's :func:`contractive_penalty`, at what the encoder
            sees, which is added: its mean over the rows under ``"mean"``, its sum under ``"sum"``.
        reduction: ``"mean"`` over all elements, ``"sum"``, or ``"none"``, without contraction.
        seed: an int in [0, 2**63); None draws one from ``generator``, if there is corruption.
        generator: a ``torch.Generator``; None takes torch's default one.
        row_offset: the number of x's first row, as :func:`corrupt` takes it.
        loss: the old name of ``reconstruction``, which warns.

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
    reconstruction = renamed_argument("loss", loss, "reconstruction", reconstruction, "mse")
    inputs = LossInputs(x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target)
    check_tensors(inputs)
    checks.check_choice(activation, "activation", ACTIVATIONS)
    checks.check_choice(output_activation, "output_activation", ACTIVATIONS)
    checks.check_choice(reconstruction, "reconstruction", LOSSES)
    checks.check_choice(reduction, "reduction", REDUCTIONS)
    corruption_level = check_corruption(x, corruption, corruption_level)
    contraction = check_contraction(contraction, reduction)
    row_offset = checks.check_integer(row_offset, "row_offset", 2**62)
    traced = dispatch.is_traced(*inputs)
    checks.check_seed_arguments(seed, generator)
    resolved_seed = (
        0 if corruption is None else dispatch.resolve_seed(seed, generator, x.device, traced)
    )
    settings = LossSettings(
        activation,
        output_activation,
        reconstruction,
        corruption,
        corruption_level,
        resolved_seed,
        row_offset,
        contraction,
        dispatch.autocast_dtype(x.device),
    )
    return run(inputs, settings, reduction, traced)


@public
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
    checks.check_choice(activation, "activation", ACTIVATIONS)
    checks.check_choice(output_activation, "output_activation", ACTIVATIONS)
    parameters = encoder_weight, encoder_bias, decoder_weight, decoder_bias
    check_tensors(LossInputs(x, *parameters, None))
    return eager.autoencode(x, *parameters, activation, output_activation, linear_act)
