"""A model's training step as a plan, for the kernels that take it in one call."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aefast.nn.linear import LinearAct, TiedLinearAct
from aefast.ops.shared import contract
from aefast.step.loss import refusal, step_loss
from aefast.step.plan import Layer, Plan

# The objectives of numbers in [0, 1].
TAKERS = {"bce": "loss 'bce' takes", "bernoulli": "Bernoulli units take"}


class PlannedStep(NamedTuple):
    """A plan, and the tensors that its parameters are at this moment."""

    plan: Plan
    parameters: list[Tensor]


def plan_of(model: Any) -> PlannedStep | str:
    """The step of a model as it stands; or why the kernels cannot take it in one call.

    A class says with ``step_fields`` what its loss adds to its layers. A subclass, whose loss may
    be another, says it anew.
    """
    if "step_fields" not in type(model).__dict__:
        return f"{type(model).__name__} says no plan of its step"
    if not model.is_plain:
        return "something stands on its layers: a hook, a parametrization, an adapter"
    fields = model.step_fields()
    if isinstance(fields, str):
        return fields
    encoder, decoder = model.step_layers()
    return _planned(encoder, decoder, model._parameters.get("log_var"), fields)


def _planned(
    encoder: Iterable[Any], decoder: Iterable[Any], log_var: Tensor | None, fields: dict[str, Any]
) -> PlannedStep:
    parameters: list[Tensor] = []
    numbers: dict[int, int] = {}

    def number(parameter: Tensor | None) -> int:
        if parameter is None:
            return -1
        if id(parameter) not in numbers:
            numbers[id(parameter)] = len(parameters)
            parameters.append(parameter)
        return numbers[id(parameter)]

    def layer(module: LinearAct | TiedLinearAct) -> Layer:
        held: Any = module._parameters
        if isinstance(module, TiedLinearAct):
            weight: Any = module._tied[0]._parameters["weight"]
            inputs, outputs = weight.shape
        else:
            weight = held["weight"]
            outputs, inputs = weight.shape
        is_tied = isinstance(module, TiedLinearAct)
        return Layer(
            inputs, outputs, module.activation, number(weight), number(held["bias"]), is_tied
        )

    layers = tuple(map(layer, encoder)), tuple(map(layer, decoder))
    if log_var is not None:
        fields = {**fields, "log_var": number(log_var)}
    plan = Plan(*layers, tuple(parameter.numel() for parameter in parameters), **fields)
    return PlannedStep(plan, parameters)


def loss_in_one_call(
    model: nn.Module,
    x: Tensor,
    seed: int | None,
    generator: torch.Generator | None,
    row_offset: int,
) -> Tensor | None:
    """The model's loss of x ``[..., D]`` as one autograd node over one call; None where that does
    not serve."""
    if torch.compiler.is_compiling() or not isinstance(x, Tensor):
        return None
    if x.device.type != "cpu" or x.dtype != torch.float32 or contract.is_traced(x):
        return None
    step = plan_of(model)
    if isinstance(step, str):
        return None
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1]) if x.dim() else x
    if refusal(step.plan, step.parameters, rows) is not None:
        return None
    if step.plan.objective in TAKERS:
        contract.check_unit_interval(rows, "x", TAKERS[step.plan.objective])
    drawn = contract.draw_seed(seed, generator, x.device, False) if step.plan.draws else 0
    return step_loss(step.plan, step.parameters, rows, int(drawn), row_offset)
