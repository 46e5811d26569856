"""The two passes over an encoder, for any backend's kernels: code and penalty, and all gradients.

One layer's exact penalty is a sum over the code, ||J||^2 = sum_j d_j^2 n_j with the slopes d and
the squared lengths n of the weight's rows, made beside the code; all others are rows.py's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.ops.jacobian import eager, rows
from aefast.ops.jacobian.kernels import Kernels
from aefast.ops.jacobian.settings import Layer, Settings
from aefast.ops.shared.precision import wide


class Point(NamedTuple):
    """What an encoder makes of its input, layer by layer."""

    inputs: list[Tensor]  # [B, H_l]
    saved: list[Tensor]  # what tells the slopes
    code: Tensor


class Kept(NamedTuple):
    """What forward keeps for backward."""

    layers: Sequence[Layer]
    points: list[Point]  # at x, and at x with noise
    lengths: Tensor | None  # one layer's squared lengths
    made: rows.Gradients | None  # of the sum of all penalties
    route: rows.Route | None = None  # of the rows


class Gradients(NamedTuple):
    x: Tensor | None
    weights: list[Tensor | None]
    biases: list[Tensor | None]


class Needed(NamedTuple):
    """Which of them."""

    x: bool
    weights: list[bool]
    biases: list[bool]


def forward(
    kernels: Kernels, x: Tensor, layers: Sequence[Layer], settings: Settings, differentiated: bool
) -> tuple[Tensor, Tensor | None, Kept]:
    """The penalty [B], an estimate's standard error, and what backward needs.

    Where gradients will be asked for, those of the rows are made at once, for the sum of all
    penalties: mostly the mean is wanted, and then they are right but for a factor. Whether it is
    so is asked in backward; on a GPU that would wait for it, and backward makes them itself.
    """
    points = [encode(kernels, x, layers)]
    if settings.hessian_noise > 0:
        noisy = eager.with_noise(x, settings, kernels.corrupt)
        points.append(encode(kernels, noisy, layers))
    if is_closed(layers, settings):
        lengths = squared_lengths(kernels, layers[0].weight)
        penalty = _closed(kernels, points, layers[0], lengths, settings)
        return penalty, None, Kept(layers, points, lengths, None)
    slopes, others = _slopes(kernels, points, layers)
    at_once = differentiated and x.device.type == "cpu"
    is_captured = _is_captured(x)
    route = rows.route_of(layers, settings.probes, may_take_gram=not is_captured)
    while True:
        all_norms = _norms(kernels, x, layers, settings, route)
        made = None
        if at_once:
            norms, made = all_norms.with_gradients(slopes, others)
        else:
            norms = all_norms.forward(slopes, others)
        if is_captured or all_norms.is_right(norms):
            kept = Kept(layers, points, None, made, route)
            return *eager.summary(norms, settings), kept
        route = rows.route_of(layers, settings.probes, may_take_gram=False, may_push=False)


def backward(
    kernels: Kernels,
    grad_penalty: Tensor | None,
    grad_code: Tensor | None,
    kept: Kept,
    settings: Settings,
    needed: Needed,
) -> Gradients:
    """Of the gradients those that are ``needed``; no grad_penalty where the code alone counts."""
    layers, points, lengths, *_ = kept
    if grad_penalty is None:
        nothing = [torch.zeros_like(saved) for saved in points[0].saved]
        return encode_backward(kernels, points[0], layers, nothing, grad_code, needed)
    if lengths is not None and len(points) == 1:
        return _fused_backward(
            kernels, grad_penalty, grad_code, points[0], layers[0], lengths, needed
        )
    made = _made(kernels, grad_penalty, kept, settings)
    result = encode_backward(kernels, points[0], layers, made.slopes, grad_code, needed)
    if made.others is not None:
        noisy = encode_backward(kernels, points[1], layers, made.others, None, needed)
        result = Gradients(
            _sum(result.x, noisy.x),
            [_sum(*pair) for pair in zip(result.weights, noisy.weights, strict=True)],
            [_sum(*pair) for pair in zip(result.biases, noisy.biases, strict=True)],
        )
    weights = [
        _sum(total, part) if need else None
        for total, part, need in zip(result.weights, made.weights, needed.weights, strict=True)
    ]
    return result._replace(weights=weights)


def _made(
    kernels: Kernels,
    grad_penalty: Tensor,
    kept: Kept,
    settings: Settings,
) -> rows.Gradients:
    """The gradients by slopes and weights."""
    layers, points, lengths, *_ = kept
    grad = grad_penalty / max(settings.probes, 1)
    if kept.made is not None and len(grad) > 0 and bool((grad == grad[0]).all()):
        made = kept.made.times(grad[0])
        if made.is_finite():
            return made
    slopes, others = _slopes(kernels, points, layers)
    if lengths is not None and others is not None:
        return _closed_backward(grad, slopes[0], others[0], layers[0].weight, lengths, settings)
    assert kept.route is not None
    norms = _norms(kernels, points[0].inputs[0], layers, settings, kept.route)
    return norms.with_gradients(slopes, others, grad)[1]


def is_closed(layers: Sequence[Layer], settings: Settings) -> bool:
    """Whether the penalty is a sum over the code."""
    return len(layers) == 1 and settings.probes == 0


def is_fused(layers: Sequence[Layer], settings: Settings) -> bool:
    """Whether one kernel makes it."""
    return is_closed(layers, settings) and settings.hessian_noise == 0


def encode(kernels: Kernels, x: Tensor, layers: Sequence[Layer]) -> Point:
    inputs, saved = [], []
    for weight, bias, activation in layers:
        inputs.append(x)
        x, tells = kernels.encode(x, kernels.operand(weight), bias, activation)
        saved.append(x if tells is None else tells)
    return Point(inputs, saved, x)


def encode_backward(
    kernels: Kernels,
    point: Point,
    layers: Sequence[Layer],
    grad_slopes: list[Tensor],
    grad_code: Tensor | None,
    needed: Needed,
) -> Gradients:
    """From the gradients by slopes and code."""
    result = Gradients(None, [None] * len(layers), [None] * len(layers))
    for index, (weight, _, activation) in reversed(list(enumerate(layers))):
        grad, grad_bias = kernels.slope_backward(
            point.saved[index], activation, grad_code, grad_slopes[index]
        )
        if needed.biases[index]:
            result.biases[index] = grad_bias
        if needed.weights[index]:
            result.weights[index] = kernels.add_product(grad, point.inputs[index], None)
        if index > 0 or needed.x:
            grad_code = kernels.multiply(grad, kernels.operand(weight.t()))
    return result._replace(x=grad_code) if needed.x else result


def _fused_backward(
    kernels: Kernels,
    grad_penalty: Tensor,
    grad_code: Tensor | None,
    point: Point,
    layer: Layer,
    lengths: Tensor,
    needed: Needed,
) -> Gradients:
    weight = layer.weight
    grad, grad_bias, grad_lengths = kernels.contract_backward(
        point.saved[0],
        layer.activation,
        grad_code,
        grad_penalty,
        lengths,
    )
    grad_weight = grad_x = None
    if needed.weights[0]:
        grad_weight = kernels.add_product(grad, point.inputs[0], None)
        grad_weight += 2 * grad_lengths[:, None] * weight
    if needed.x:
        grad_x = kernels.multiply(grad, kernels.operand(weight.t()))
    return Gradients(grad_x, [grad_weight], [grad_bias if needed.biases[0] else None])


def _closed(
    kernels: Kernels, points: list[Point], layer: Layer, lengths: Tensor, settings: Settings
) -> Tensor:
    """sum_j (d^2 + hessian_weight (d - d')^2)_j n_j."""
    if len(points) == 1:
        return kernels.contract(points[0].saved[0], layer.activation, lengths)
    slope, other = (kernels.slopes(point.saved[0], layer.activation) for point in points)
    return (slope.square() + settings.hessian_weight * (slope - other).square()) @ lengths


def _closed_backward(
    grad: Tensor, slope: Tensor, other: Tensor, weight: Tensor, lengths: Tensor, settings: Settings
) -> rows.Gradients:
    """Those of the sum above, with its second term."""
    change = settings.hessian_weight * (slope - other)
    factor = 2 * grad[:, None] * lengths
    grad_lengths = grad @ (slope.square() + change * (slope - other))
    grad_weight = 2 * grad_lengths[:, None] * weight
    return rows.Gradients([factor * (slope + change)], [-factor * change], [grad_weight])


def _slopes(
    kernels: Kernels, points: list[Point], layers: Sequence[Layer]
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Every layer's at x, and at x with noise."""
    slopes = [
        [
            kernels.slopes(saved, layer.activation)
            for saved, layer in zip(point.saved, layers, strict=True)
        ]
        for point in points
    ]
    return slopes[0], slopes[1] if len(slopes) > 1 else None


def _norms(
    kernels: Kernels,
    x: Tensor,
    layers: Sequence[Layer],
    settings: Settings,
    route: rows.Route,
) -> rows.Norms:
    def draw(samples: slice) -> Tensor:
        first = settings._replace(row_offset=settings.row_offset + samples.start)
        return eager.draw_probes(x[samples], layers[-1].weight.shape[0], first, kernels.corrupt)

    return rows.Norms(kernels, layers, settings.probes, draw, settings.hessian_weight, route)


def _is_captured(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, which cannot wait for an answer."""
    return x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def squared_lengths(kernels: Kernels, weight: Tensor) -> Tensor:
    """Of a weight's rows; a half precision's in float32."""
    weight = wide(weight)
    return kernels.dot_rows(weight, weight, weight.new_zeros(weight.shape[0]))


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
