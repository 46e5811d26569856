"""Forward and backward of the contractive penalty, composed of a backend's primitives.

One layer's exact penalty is a sum over the code: ||J||^2 = sum_j d_j^2 n_j, with the slopes d and
the squared lengths n of the weight's rows, which row_lengths.py scales where they leave the
dtype's range. Every other penalty is computed by rows.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.capture import is_captured
from aefast.ops.contractive import eager, rows
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.contractive.row_lengths import RowLengths
from aefast.ops.contractive.settings import EncoderLayer, PenaltySettings
from aefast.ops.shared.precision import upcast


class Encoding(NamedTuple):
    """The results of encoding a batch, layer by layer."""

    inputs: list[Tensor]  # [B, H_l]
    saved: list[Tensor]  # what the slopes are computed from
    code: Tensor


class SavedForBackward(NamedTuple):
    """What forward saves for backward."""

    layers: Sequence[EncoderLayer]
    encodings: list[Encoding]  # at x, and at x with noise
    lengths: RowLengths | None  # of one layer's rows
    norm_gradients: rows.NormGradients | None  # of the sum of all penalties
    choice: "RouteChoice | None" = None  # of the rows


class RouteChoice(NamedTuple):
    """The route that the rows take. A CUDA graph holds two, and chooses anew at every replay."""

    route: rows.Route
    is_right: Tensor | None = None  # whether the route's numbers are accurate; None: they are
    definition: rows.Route | None = None  # the route that is taken where they are not


class RowsPass(NamedTuple):
    """The squared norms of the rows' Jacobians by one route, and their gradients."""

    norms: Tensor
    gradients: rows.NormGradients | None

    def where(self, condition: Tensor, other: "RowsPass") -> "RowsPass":
        norms = torch.where(condition, self.norms, other.norms)
        if self.gradients is None or other.gradients is None:
            return RowsPass(norms, None)
        return RowsPass(norms, self.gradients.where(condition, other.gradients))


class EncoderGradients(NamedTuple):
    """The gradients by an encoder's input and parameters."""

    x: Tensor | None
    weights: list[Tensor | None]
    biases: list[Tensor | None]


class NeedsGrad(NamedTuple):
    """Which of these gradients are required."""

    x: bool
    weights: list[bool]
    biases: list[bool]


def forward(
    primitives: PenaltyPrimitives,
    x: Tensor,
    layers: Sequence[EncoderLayer],
    settings: PenaltySettings,
    differentiated: bool,
) -> tuple[Tensor, Tensor | None, SavedForBackward]:
    """The penalty [B], an estimate's standard error, and what backward needs.

    Where gradients are required, those of the rows are computed along with the penalty, for the sum
    of all rows' penalties. A mean's differ by a factor alone, which backward checks. To check it
    would wait for a GPU, so backward computes them there.
    """
    encodings = [encode(primitives, x, layers)]
    if settings.hessian_noise > 0:
        noisy = eager.with_noise(x, settings, primitives.corrupt)
        encodings.append(encode(primitives, noisy, layers))
    if is_closed(layers, settings):
        lengths = primitives.row_lengths(upcast(layers[0].weight))
        penalty = _closed(primitives, encodings, layers[0], lengths, settings)
        return penalty, None, SavedForBackward(layers, encodings, lengths, None)
    slopes, noisy_slopes = _slopes(primitives, encodings, layers)
    at_once = differentiated and x.device.type == "cpu"

    def along(route: rows.Route) -> tuple[RowsPass, bool | Tensor]:
        all_norms = _norms(primitives, x, layers, settings, route)
        if at_once:
            rows_pass = RowsPass(*all_norms.with_gradients(slopes, noisy_slopes))
        else:
            rows_pass = RowsPass(all_norms.forward(slopes, noisy_slopes), None)
        return rows_pass, all_norms.is_right(rows_pass.norms)

    may_take_gram = rows.gram_pays(layers, settings.probes, len(x))
    choice = RouteChoice(rows.route_of(layers, settings.probes, may_take_gram))
    rows_pass, is_right = along(choice.route)
    if is_right is not True:
        definition = rows.route_of(layers, settings.probes, may_take_gram=False, may_push=False)
        if isinstance(is_right, Tensor) and is_captured(x.device):
            choice = RouteChoice(choice.route, is_right, definition)
            rows_pass = rows_pass.where(is_right, along(definition)[0])
        elif not is_right:
            choice = RouteChoice(definition)
            rows_pass, _ = along(definition)
    saved_pass = SavedForBackward(layers, encodings, None, rows_pass.gradients, choice)
    return *eager.summary(rows_pass.norms, settings), saved_pass


def backward(
    primitives: PenaltyPrimitives,
    grad_penalty: Tensor | None,
    grad_code: Tensor | None,
    saved_pass: SavedForBackward,
    settings: PenaltySettings,
    needs_grad: NeedsGrad,
) -> EncoderGradients:
    """The gradients of the inputs that need one; no grad_penalty where the code alone counts."""
    layers, encodings, lengths, *_ = saved_pass
    if grad_penalty is None:
        nothing = [torch.zeros_like(saved) for saved in encodings[0].saved]
        return encode_backward(primitives, encodings[0], layers, nothing, grad_code, needs_grad)
    if lengths is not None and len(encodings) == 1:
        return _fused_backward(
            primitives, grad_penalty, grad_code, encodings[0], layers[0], lengths, needs_grad
        )
    norm_gradients = _norm_gradients(primitives, grad_penalty, saved_pass, settings)
    result = encode_backward(
        primitives, encodings[0], layers, norm_gradients.slopes, grad_code, needs_grad
    )
    if norm_gradients.noisy_slopes is not None:
        noisy = encode_backward(
            primitives, encodings[1], layers, norm_gradients.noisy_slopes, None, needs_grad
        )
        result = EncoderGradients(
            _sum(result.x, noisy.x),
            [_sum(*pair) for pair in zip(result.weights, noisy.weights, strict=True)],
            [_sum(*pair) for pair in zip(result.biases, noisy.biases, strict=True)],
        )
    weights = [
        _sum(total, extra) if need else None
        for total, extra, need in zip(
            result.weights, norm_gradients.weights, needs_grad.weights, strict=True
        )
    ]
    return result._replace(weights=weights)


def _norm_gradients(
    primitives: PenaltyPrimitives,
    grad_penalty: Tensor,
    saved_pass: SavedForBackward,
    settings: PenaltySettings,
) -> rows.NormGradients:
    """The gradients by slopes and weights."""
    layers, encodings, lengths, *_ = saved_pass
    grad = grad_penalty / max(settings.probes, 1)
    if saved_pass.norm_gradients is not None and len(grad) > 0 and bool((grad == grad[0]).all()):
        norm_gradients = saved_pass.norm_gradients.times(2 * grad[0])
        if norm_gradients.is_finite():
            return norm_gradients
    slopes, noisy_slopes = _slopes(primitives, encodings, layers)
    if lengths is not None and noisy_slopes is not None:
        return _closed_backward(
            grad, slopes[0], noisy_slopes[0], layers[0].weight, lengths, settings
        )

    def along(route: rows.Route) -> rows.NormGradients:
        norms = _norms(primitives, encodings[0].inputs[0], layers, settings, route)
        return norms.with_gradients(slopes, noisy_slopes, grad)[1].times(2)

    choice = saved_pass.choice
    assert choice is not None
    norm_gradients = along(choice.route)
    if choice.is_right is None or choice.definition is None:
        return norm_gradients
    return norm_gradients.where(choice.is_right, along(choice.definition))


def is_closed(layers: Sequence[EncoderLayer], settings: PenaltySettings) -> bool:
    """Whether the penalty is a sum over the code."""
    return len(layers) == 1 and settings.probes == 0


def is_fused(layers: Sequence[EncoderLayer], settings: PenaltySettings) -> bool:
    """Whether one kernel makes it."""
    return is_closed(layers, settings) and settings.hessian_noise == 0


def encode(primitives: PenaltyPrimitives, x: Tensor, layers: Sequence[EncoderLayer]) -> Encoding:
    inputs, saved = [], []
    for weight, bias, activation in layers:
        inputs.append(x)
        x, tells = primitives.encode(x, primitives.operand(weight), bias, activation)
        saved.append(x if tells is None else tells)
    return Encoding(inputs, saved, x)


def encode_backward(
    primitives: PenaltyPrimitives,
    encoding: Encoding,
    layers: Sequence[EncoderLayer],
    grad_slopes: list[Tensor],
    grad_code: Tensor | None,
    needs_grad: NeedsGrad,
) -> EncoderGradients:
    """The gradients by x, weights and biases, from those by slopes and code."""
    result = EncoderGradients(None, [None] * len(layers), [None] * len(layers))
    for index, (weight, _, activation) in reversed(list(enumerate(layers))):
        grad, grad_bias = primitives.slope_backward(
            encoding.saved[index], activation, grad_code, grad_slopes[index]
        )
        if needs_grad.biases[index]:
            result.biases[index] = grad_bias
        if needs_grad.weights[index]:
            result.weights[index] = primitives.add_product(grad, encoding.inputs[index], None)
        if index > 0 or needs_grad.x:
            grad_code = primitives.multiply(grad, primitives.operand(weight.t()))
    return result._replace(x=grad_code) if needs_grad.x else result


def _fused_backward(
    primitives: PenaltyPrimitives,
    grad_penalty: Tensor,
    grad_code: Tensor | None,
    encoding: Encoding,
    layer: EncoderLayer,
    lengths: RowLengths,
    needs_grad: NeedsGrad,
) -> EncoderGradients:
    weight = layer.weight
    grad, grad_bias, grad_lengths = primitives.penalty_backward(
        encoding.saved[0],
        layer.activation,
        grad_code,
        grad_penalty,
        lengths,
    )
    grad_weight = grad_x = None
    if needs_grad.weights[0]:
        grad_weight = primitives.add_product(grad, encoding.inputs[0], None)
        grad_weight += lengths.weight_gradient(grad_lengths, weight)
    if needs_grad.x:
        grad_x = primitives.multiply(grad, primitives.operand(weight.t()))
    return EncoderGradients(grad_x, [grad_weight], [grad_bias if needs_grad.biases[0] else None])


def _closed(
    primitives: PenaltyPrimitives,
    encodings: list[Encoding],
    layer: EncoderLayer,
    lengths: RowLengths,
    settings: PenaltySettings,
) -> Tensor:
    """sum_j (d^2 + hessian_weight (d - d')^2)_j |W_j|^2."""
    if len(encodings) == 1:
        return primitives.penalty(encodings[0].saved[0], layer.activation, lengths)
    slope, noisy_slope = (
        lengths.scaled(primitives.slopes(encoding.saved[0], layer.activation))
        for encoding in encodings
    )
    squares = slope.square() + settings.hessian_weight * (slope - noisy_slope).square()
    return squares @ lengths.squares


def _closed_backward(
    grad: Tensor,
    slope: Tensor,
    noisy_slope: Tensor,
    weight: Tensor,
    lengths: RowLengths,
    settings: PenaltySettings,
) -> rows.NormGradients:
    """The gradients of the sum above, with its second term."""
    difference = slope - noisy_slope
    slope_scaled = lengths.scaled(slope)
    change = settings.hessian_weight * lengths.scaled(difference)
    factor = 2 * grad[:, None] * lengths.squares
    grad_lengths = (grad[:, None] * (slope_scaled * slope + change * difference)).sum(0)
    return rows.NormGradients(
        [lengths.scaled(factor * (slope_scaled + change))],
        [lengths.scaled(-factor * change)],
        [lengths.weight_gradient(grad_lengths, weight)],
    )


def _slopes(
    primitives: PenaltyPrimitives, encodings: list[Encoding], layers: Sequence[EncoderLayer]
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Every layer's at x, and at x with noise."""
    slopes = [
        [
            primitives.slopes(saved, layer.activation)
            for saved, layer in zip(encoding.saved, layers, strict=True)
        ]
        for encoding in encodings
    ]
    return slopes[0], slopes[1] if len(slopes) > 1 else None


def _norms(
    primitives: PenaltyPrimitives,
    x: Tensor,
    layers: Sequence[EncoderLayer],
    settings: PenaltySettings,
    route: rows.Route,
) -> rows.Norms:
    def draw_probes(samples: slice) -> Tensor:
        first = settings._replace(row_offset=settings.row_offset + samples.start)
        return eager.draw_probes(x[samples], layers[-1].weight.shape[0], first, primitives.corrupt)

    return rows.Norms(
        primitives, layers, settings.probes, draw_probes, settings.hessian_weight, route
    )


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
