"""A plain PyTorch model with its loss, as :func:`aefast.fit` trains it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from aefast.acceleration.objective import NAMED, objective_of
from aefast.acceleration.recognition import RecognizedLayer, stacks_of
from aefast.acceleration.stack import Stack, stack_of
from aefast.acceleration.tracing import KEY, trace
from aefast.nn.plain import has_hooks
from aefast.nn.step_plan import NOT_TOGETHER, PlannedStep, fits_together
from aefast.step.plan import Plan, PlannedLayer

# They leave rows [B, D] as they are where D goes into the next layer.
RESHAPES = ("view", "reshape", "flatten", torch.flatten, torch.reshape)


class PlainModel:
    """A module that has no loss method, with a loss of its output and its input.

    Args:
        module: the model.
        loss: ``loss(output, x)``, or ``loss(outputs[0], x, *outputs[1:])`` of several.
    """

    def __init__(self, module: nn.Module, loss: Any) -> None:
        self.module = module
        self.criterion = loss
        self.objective = objective_of(loss)

    @property
    def training(self) -> bool:
        return self.module.training

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)

    def eval(self) -> None:
        self.module.eval()

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def buffers(self) -> Iterator[Tensor]:
        return self.module.buffers()

    def loss(self, x: Tensor, *, seed: int | None = None) -> Tensor:
        """What the loop minimizes; what the model draws comes from torch's generator."""
        outputs = self.module(x)
        output, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        is_tensor = isinstance(output, Tensor)
        if self.objective is not None and is_tensor and output.shape != x.shape:
            raise ValueError(
                f"model gives {list(output.shape)} for rows {list(x.shape)}; a loss that is a mean "
                "over elements takes an output of the rows' shape"
            )
        return self.criterion(output, x, *others)

    def planned_step(self) -> PlannedStep | str:
        """Its step as a plan; or why the kernels cannot take it in one call."""
        if self.objective is None:
            return "the loss is none that the kernels know: mse or bce, means over all elements"
        if has_hooks(self.module):
            return "hooks stand on the model"
        if "forward" in self.module.__dict__ and KEY not in self.module.__dict__:
            return "the model has a forward of its own"
        layers = _whole_stack(self.module)
        return layers if isinstance(layers, str) else _planned(stack_of(layers), self.objective)


def plain_model(model: Any, loss: Any) -> PlainModel | None:
    """The model with its loss, one that was accelerated with it, or mean squared error; None where
    it is none that goes without a loss method."""
    record = model.__dict__.get(KEY) if isinstance(model, nn.Module) else None
    if loss is None and record is None and type(model) is not nn.Sequential:
        return None
    if loss is None:
        loss = "mse" if record is None or record.loss is None else record.loss
    return PlainModel(model, NAMED.get(loss, loss) if isinstance(loss, str) else loss)


def _whole_stack(module: nn.Module) -> list[RecognizedLayer] | str:
    """The layers of a model that is nothing but layers, one after the other."""
    traced = trace(module)
    if isinstance(traced, str):
        return traced
    stacks = stacks_of(traced.graph, module)
    if len(stacks) != 1:
        return "the model is more than layers one after the other"
    (stack,) = stacks
    output = next(node for node in traced.graph.nodes if node.op == "output")
    first, last = stack[0].input, stack[-1].nodes[-1]
    if traced.inputs != 1 or output.args != (last,) or not _is_input(first, module):
        return "the model does more than its layers do: noise, or operations between them"
    return stack


def _is_input(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node is the model's input, as rows."""
    while node.op != "placeholder":
        is_flatten = node.op == "call_module" and (
            type(module.get_submodule(str(node.target))) is nn.Flatten
        )
        if not (is_flatten or node.target in RESHAPES):
            return False
        (node,) = node.args[:1]  # type: ignore[assignment]
    return True


def _planned(stack: Stack, objective: str) -> PlannedStep | str:
    parameters: list[Tensor] = []
    numbers: list[int] = []
    for slot in stack.slots:
        known = [number for number, one in enumerate(parameters) if one is slot.tensor]
        numbers.append(known[0] if known else len(parameters))
        if not known:
            parameters.append(slot.tensor)
    numbers.append(-1)  # of no bias
    layers = [
        layer._replace(weight=numbers[layer.weight], bias=numbers[layer.bias])
        for layer in stack.layers
    ]
    if len(layers) < 2:
        return "one layer is no autoencoder"
    code = _code_of(layers)
    if code is None:
        return "two layers share a parameter"
    last = layers[-1].activation
    if objective != "mse":
        if last != ("sigmoid" if objective == "bce" else "identity"):
            return f"the loss is a cross-entropy, and the last activation {last}"
        layers[-1] = layers[-1]._replace(activation="sigmoid")
    plan = Plan(
        tuple(layers[:code]),
        tuple(layers[code:]),
        tuple(parameter.numel() for parameter in parameters),
        objective="mse" if objective == "mse" else "bce",
    )
    return PlannedStep(plan, parameters) if fits_together(plan) else NOT_TOGETHER


def _code_of(layers: list[PlannedLayer]) -> int | None:
    """How many layers lead to the code: those before the first tied one, or the narrowest. None
    where layers share parameters otherwise than the decoder's with the encoder's."""
    tied = [number for number, layer in enumerate(layers) if layer.is_tied]
    narrowest = min(range(1, len(layers)), key=lambda number: layers[number].inputs)
    code = tied[0] if tied else narrowest
    biases = [layer.bias for layer in layers if layer.bias >= 0]
    own = [layer.weight for layer in layers if not layer.is_tied]
    tied_to = [layers[number].weight for number in tied]
    encoder = {layer.weight for layer in layers[:code]}
    is_shared = any(len({*numbers}) < len(numbers) for numbers in (biases, own, tied_to))
    return None if code == 0 or is_shared or not encoder >= {*tied_to} else code
