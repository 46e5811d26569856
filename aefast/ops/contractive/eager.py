"""An encoder's Jacobian and its squared norm as the equations read: J = D_L W_L ... D_1 W_1,

with D_l the slopes act'(a_l) of layer l as a diagonal matrix.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.contractive.row_lengths import penalty_factors
from aefast.ops.contractive.settings import EncoderLayer, PenaltySettings
from aefast.ops.corrupt.eager import corrupt as defined_noise
from aefast.ops.corrupt.noise import Noise
from aefast.ops.linear_act.eager import ACTIVATIONS, DERIVATIVES
from aefast.ops.shared.autograd import aliases_of
from aefast.random import DrawStep


def contractive_penalty(
    x: Tensor, layers: Sequence[EncoderLayer], settings: PenaltySettings
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The penalty [B], an estimate's standard error [B], and the code [B, H]."""
    code, slopes = encode(x, layers)
    probes = draw_probes(x, code.shape[1], settings) if settings.probes > 0 else None
    norms = squared_norms(layers, slopes, None, probes)
    if settings.hessian_noise > 0:
        _, noisy_slopes = encode(with_noise(x, settings), layers)
        change = squared_norms(layers, slopes, noisy_slopes, probes)
        norms = norms + settings.hessian_weight * change
    return *summary(norms, settings), code


def encode(
    x: Tensor, layers: Sequence[EncoderLayer], linear: Callable[..., Tensor] = F.linear
) -> tuple[Tensor, list[Tensor]]:
    """The code [B, H] and every layer's slopes [B, H_l]."""
    slopes = []
    for weight, bias, activation in layers:
        preactivation = linear(x, weight, bias)
        slopes.append(DERIVATIVES[activation](preactivation))
        x = ACTIVATIONS[activation](preactivation)
    return x, slopes


def squared_norms(
    layers: Sequence[EncoderLayer],
    slopes: list[Tensor],
    noisy_slopes: list[Tensor] | None,
    probes: Tensor | None,
) -> Tensor:
    """[B, R]: the squared lengths of the rows of J, or of probes J; with the slopes of another
    point those of the difference of both."""
    if probes is None and len(layers) == 1:
        change = slopes[0] if noisy_slopes is None else slopes[0] - noisy_slopes[0]
        squared_slopes, squared_lengths = penalty_factors(change, layers[0].weight)
        return squared_slopes * squared_lengths
    rows = pull(layers, slopes, probes)
    if noisy_slopes is not None:
        rows = rows - pull(layers, noisy_slopes, probes)
    return rows.square().sum(2)


def pull(
    layers: Sequence[EncoderLayer],
    slopes: list[Tensor],
    probes: Tensor | None,
    linear: Callable[..., Tensor] = F.linear,
) -> Tensor:
    """[B, R, D]: J, or the probes [B, R, H] times J."""
    weight = layers[-1].weight
    if probes is None:
        rows = slopes[-1].unsqueeze(2) * weight
    else:
        rows = linear(probes * slopes[-1].unsqueeze(1), weight.t())
    for (weight, _, _), slope in zip(layers[-2::-1], slopes[-2::-1], strict=True):
        rows = linear(rows * slope.unsqueeze(1), weight.t())
    return rows


def push(
    layers: Sequence[EncoderLayer],
    slopes: list[Tensor],
    directions: Tensor,
    linear: Callable[..., Tensor] = F.linear,
) -> Tensor:
    """[B, R, H]: J times each of the directions [B, R, D]."""
    for (weight, _, _), slope in zip(layers, slopes, strict=True):
        directions = linear(directions, weight) * slope.unsqueeze(1)
    return directions


def summary(norms: Tensor, settings: PenaltySettings) -> tuple[Tensor, Tensor | None]:
    """The penalty [B] of its parts [B, R], and its standard error where they are estimates."""
    if settings.probes == 0:
        return norms.sum(1), None
    if settings.probes == 1:
        return norms.mean(1), None
    variance = (norms - norms.mean(1, keepdim=True)).detach().square().sum(1)
    return norms.mean(1), (variance / (settings.probes * (settings.probes - 1))).sqrt()


def draw_probes(
    x: Tensor,
    hidden: int,
    settings: PenaltySettings,
    corrupt: Callable[..., Tensor] = defined_noise,
) -> Tensor:
    """[B, R, H] of 1 and -1, evenly."""
    batch, probes = x.shape[0], settings.probes
    rows = x.new_empty(batch * probes, hidden)
    stream = settings.seed, settings.row_offset * probes, DrawStep.PROBES.value
    rows = corrupt(rows, Noise("salt_and_pepper", 1.0, -1.0, 1.0, *stream))
    return rows.reshape(batch, probes, hidden)


def with_noise(
    x: Tensor, settings: PenaltySettings, corrupt: Callable[..., Tensor] = defined_noise
) -> Tensor:
    """x and normal noise, of another seed for every row."""
    stream = settings.seed, settings.row_offset, DrawStep.HESSIAN_NOISE.value
    return corrupt(x, Noise("gaussian", settings.hessian_noise, 0.0, 1.0, *stream))


def gradients(
    grad_penalty: Tensor | None,
    grad_code: Tensor | None,
    x: Tensor,
    layers: Sequence[EncoderLayer],
    settings: PenaltySettings,
) -> list[Tensor | None]:
    """The gradients by x, the weights and the biases, differentiable in their turn; None where not
    wanted.

    An alias stands for each of them: see :func:`aefast.ops.shared.autograd.aliases_of`.
    """
    differentiated_again = torch.is_grad_enabled()
    with torch.enable_grad():
        x, *weights = aliases_of([x, *(layer.weight for layer in layers)])
        biases = aliases_of(layer.bias for layer in layers)
        layers = [
            EncoderLayer(weight, bias, layer.activation)
            for weight, bias, layer in zip(weights, biases, layers, strict=True)
        ]
        penalty, _, code = contractive_penalty(x, layers, settings)
    inputs: list[Any] = [x, *(layer.weight for layer in layers), *(layer.bias for layer in layers)]
    differentiable = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    pairs = [
        (output, grad)
        for output, grad in ((penalty, grad_penalty), (code, grad_code))
        if grad is not None and output.requires_grad
    ]
    if not pairs:
        return [None if tensor is None else torch.zeros_like(tensor) for tensor in inputs]
    outputs, grads = zip(*pairs, strict=True)
    gradients = iter(
        torch.autograd.grad(
            outputs,
            differentiable,
            grads,
            create_graph=differentiated_again,
            materialize_grads=True,
        )
    )
    return [
        next(gradients) if tensor is not None and tensor.requires_grad else None
        for tensor in inputs
    ]
