"""A stack of linear layers with their activations: checks; each layer is a linear_act."""

from collections.abc import Iterable

from torch import Tensor

from aefast.ops.linear_act.op import ACTIVATIONS
from aefast.ops.shared import checks, dispatch

Layer = tuple[Tensor, Tensor | None, str]  # weight, bias, activation


def check_layers(x: Tensor, weights: object, biases: object, activations: object) -> list[Layer]:
    """(weight, bias, activation) of every layer; an error names what does not fit."""
    layers = _layers(weights, biases, activations)
    _check(x, layers)
    return layers


def _layers(weights: object, biases: object, activations: object) -> list[Layer]:
    columns = []
    for argument, value in (("weights", weights), ("biases", biases), ("activations", activations)):
        if isinstance(value, str | Tensor) or not isinstance(value, Iterable):
            raise TypeError(f"{argument} is a {type(value).__name__}; it takes one entry a layer")
        columns.append(list(value))
    lengths = [len(column) for column in columns]
    if min(lengths) == 0 or min(lengths) != max(lengths):
        raise ValueError(
            f"weights, biases and activations have {lengths[0]}, {lengths[1]} and {lengths[2]} "
            "entries; they take one for each layer, and at least one layer"
        )
    return list(zip(*columns, strict=True))


def _check(x: Tensor, layers: list[Layer]) -> None:
    """Check all layers, before the first one runs."""
    check = checks.check_like
    if dispatch.autocast_dtype(x.device) is not None:
        check = checks.check_castable
    before, shape, width = "x", list(x.shape), list(x.shape[-1:])
    for layer, (weight, bias, activation) in enumerate(layers):
        checks.check_choice(activation, f"activations[{layer}]", ACTIVATIONS)
        check(weight, f"weights[{layer}]", x, "x")
        if weight.dim() != 2 or width != [weight.shape[1]]:
            raise ValueError(
                f"weights[{layer}] has shape {list(weight.shape)}; "
                f"with {before}'s shape {shape} it takes [H, {width[0] if width else 'D'}]"
            )
        before, shape, width = f"weights[{layer}]", list(weight.shape), list(weight.shape[:1])
        if bias is None:
            continue
        check(bias, f"biases[{layer}]", x, "x")
        if list(bias.shape) != width:
            raise ValueError(
                f"biases[{layer}] has shape {list(bias.shape)}; "
                f"with {before}'s shape {shape} it takes {width}"
            )
