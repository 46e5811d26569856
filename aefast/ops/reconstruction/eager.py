"""The reconstruction loss as the equations read, on the definitions of its parts or their kernels.

Reference: Goodfellow, Bengio, Courville, "Deep Learning", MIT Press, 2016, chapter 14; Vincent,
Larochelle, Lajoie, Bengio, Manzagol, "Stacked denoising autoencoders", JMLR 11, 2010, section 3.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.contractive.row_lengths import penalty_factors, row_lengths
from aefast.ops.corrupt.eager import corrupt
from aefast.ops.corrupt.noise import STEPS, Noise
from aefast.ops.linear_act.eager import (
    ACTIVATIONS,
    CURVATURES,
    DERIVATIVES,
    activation_backward,
    linear_act,
)
from aefast.ops.reconstruction.settings import LossInputs, LossSettings, PerInput

Layer = Callable[[Tensor, Tensor, Tensor | None, str], Tensor]


def autoencode(
    x: Tensor,
    encoder_weight: Tensor,
    encoder_bias: Tensor | None,
    decoder_weight: Tensor | None,
    decoder_bias: Tensor | None,
    activation: str,
    output_activation: str,
    linear_act: Layer = linear_act,
) -> tuple[Tensor, Tensor]:
    """The reconstruction and the code of x; a decoder's weight of None is the encoder's, tied."""
    code = linear_act(x, encoder_weight, encoder_bias, activation)
    tied = encoder_weight.t() if decoder_weight is None else decoder_weight
    return linear_act(code, tied, decoder_bias, output_activation), code


def reconstruction_loss(
    inputs: LossInputs,
    settings: LossSettings,
    reduction: str,
    linear_act: Layer = linear_act,
    corrupt: Callable[..., Tensor] = corrupt,
) -> Tensor:
    """Corrupt, encode, decode, compare, and add the penalty of contractive/eager.py."""
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    target = x if target is None else target
    if settings.corruption is not None:
        x = corrupt(x, noise_of(settings))
    from_logits = settings.reconstruction == "bce" and settings.output_activation == "sigmoid"
    output_activation = "identity" if from_logits else settings.output_activation
    if settings.contraction == 0:
        code = linear_act(x, encoder_weight, encoder_bias, settings.activation)
    else:
        preactivation = linear_act(x, encoder_weight, encoder_bias, "identity")
        code = ACTIVATIONS[settings.activation](preactivation)
    tied = encoder_weight.t() if decoder_weight is None else decoder_weight
    output = linear_act(code, tied, decoder_bias, output_activation)
    if settings.reconstruction == "mse":
        loss = F.mse_loss(output, target, reduction=reduction)
    elif from_logits:
        loss = F.binary_cross_entropy_with_logits(output, target, reduction=reduction)
    else:
        loss = F.binary_cross_entropy(output, target, reduction=reduction)
    if settings.contraction == 0:
        return loss
    slopes = DERIVATIVES[settings.activation](preactivation)
    squared_slopes, squared_lengths = penalty_factors(slopes, encoder_weight)
    # Summed over the rows first: a product with 1024 rows lost twice as much to rounding.
    penalty = settings.contraction * (
        squared_slopes.sum_to_size(len(squared_lengths)) @ squared_lengths
    )
    return loss + (penalty / max(x.numel(), 1) if reduction == "mean" else penalty)


def gradients(inputs: LossInputs, settings: LossSettings) -> PerInput[Tensor]:
    """The gradients of the summed loss, differentiable in their turn; a half precision's in
    float32, for they are to be divided by the number of elements."""
    if inputs.x.dtype in (torch.bfloat16, torch.float16):
        inputs = LossInputs._make(None if tensor is None else tensor.float() for tensor in inputs)
    x, encoder_weight, encoder_bias, decoder_weight, decoder_bias, target = inputs
    tied = decoder_weight is None
    if decoder_weight is None:
        decoder_weight = encoder_weight.t()
    clean = x if target is None else target
    corrupted = x
    if settings.corruption is not None:
        corrupted = corrupt(x, noise_of(settings))
    hidden = F.linear(corrupted, encoder_weight, encoder_bias)
    code = ACTIVATIONS[settings.activation](hidden)
    output = F.linear(code, decoder_weight, decoder_bias)

    if settings.reconstruction == "mse":
        difference = 2 * (ACTIVATIONS[settings.output_activation](output) - clean)
        grad_output = activation_backward(settings.output_activation, difference, output)
        grad_target = -difference
    else:
        grad_output = torch.sigmoid(output) - clean
        grad_target = -output
    grad_hidden = activation_backward(settings.activation, grad_output @ decoder_weight, hidden)
    if settings.contraction != 0:
        slopes = DERIVATIVES[settings.activation](hidden)
        lengths = row_lengths(encoder_weight)
        scaled_slopes = lengths.scaled(slopes)
        grad_slopes = 2 * settings.contraction * scaled_slopes * lengths.squares
        curvatures = CURVATURES[settings.activation](hidden)
        grad_hidden = grad_hidden + grad_slopes * lengths.scaled(curvatures)
    grad_encoder = grad_hidden.t() @ corrupted
    if settings.contraction != 0:
        grad_lengths = settings.contraction * (scaled_slopes * slopes).sum(0)
        grad_encoder = grad_encoder + lengths.weight_gradient(grad_lengths, encoder_weight)
    grad_decoder = grad_output.t() @ code
    grad_x = grad_hidden @ encoder_weight
    if settings.corruption in ("masking", "salt_and_pepper"):
        grad_x = corrupt(grad_x, noise_of(settings).masking())
    return PerInput(
        grad_x + grad_target if target is None else grad_x,
        grad_encoder + grad_decoder.t() if tied else grad_encoder,
        grad_hidden.sum(0),
        grad_decoder,
        grad_output.sum(0),
        grad_target,
    )


def noise_of(settings: LossSettings, first_row: int = 0) -> Noise:
    """The noise of the rows from this one on; salt and pepper are 1 and 0."""
    kind = settings.corruption
    assert kind is not None
    row_offset = settings.row_offset + first_row
    return Noise(kind, settings.corruption_level, 0.0, 1.0, settings.seed, row_offset, STEPS[kind])
