"""Recognizes the loss functions that kernels compute: mean squared error and cross-entropy."""

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from aefast.acceleration.purity import check_pure
from aefast.acceleration.tracing import ThreadsTracer
from aefast.nn.plain import has_own_forward, note_forwards, own_hooks

# The losses that aefast.fit takes by name.
NAMED: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "bce": F.binary_cross_entropy}

FUNCTIONS: dict[object, str] = {
    F.mse_loss: "mse",
    F.binary_cross_entropy: "bce",
    F.binary_cross_entropy_with_logits: "logits",
}
MODULES: dict[type, str] = {
    nn.MSELoss: "mse",
    nn.BCELoss: "bce",
    nn.BCEWithLogitsLoss: "logits",
}

note_forwards(*MODULES)


def check_loss(loss: object, taken: str) -> None:
    """Check a loss that is no name; ``taken`` says what the argument takes.

    Raises:
        TypeError: it cannot be called with an output, or is a class: a call would make a module.
    """
    if isinstance(loss, type):
        name = loss.__name__
        raise TypeError(f"loss is the class {name}; it takes {taken}, such as {name}()")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; it takes {taken}")


def objective_of(loss: Callable[..., Tensor]) -> str | None:
    """The name of a loss that kernels compute, as a mean over all elements of ``loss(output, x)``.

    ``"mse"`` is the squared error, ``"bce"`` the cross-entropy of probabilities, ``"logits"`` the
    cross-entropy of logits. None is any other loss.
    """
    if isinstance(loss, nn.Module) and type(loss) in MODULES:
        return MODULES[type(loss)] if _is_plain_mean(loss) else None
    if isinstance(loss, nn.Module) or loss in FUNCTIONS:
        return FUNCTIONS.get(loss)
    try:
        check_pure(loss)
        graph = ThreadsTracer().trace(loss)
    except Exception:  # user code, run on placeholders, may raise anything
        return None
    return _objective_of_graph(graph)


def _is_plain_mean(loss: nn.Module) -> bool:
    attributes = loss.__dict__
    if own_hooks(attributes) or has_own_forward(loss) or loss.reduction != "mean":
        return False
    weights = getattr(loss, "weight", None), getattr(loss, "pos_weight", None)
    return weights == (None, None)


def _objective_of_graph(graph: fx.Graph) -> str | None:
    *nodes, end = graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    (result,) = end.args
    if len(inputs) != 2 or not isinstance(result, fx.Node):
        return None
    if any(not node.users for node in nodes):  # a check, or a write
        return None
    if result.op == "call_function" and result.target in FUNCTIONS:
        is_mean = all(value in (None, "mean") for value in result.kwargs.values())
        return FUNCTIONS[result.target] if is_mean and result.args == (*inputs,) else None
    return "mse" if _is_mean_square(result, inputs) else None


def _is_mean_square(node: fx.Node, inputs: list[fx.Node]) -> bool:
    """Whether a node is ``((output - x) ** 2).mean()``, in one of its common spellings."""
    is_mean = node.target in ("mean", torch.mean) and len(node.args) == 1 and not node.kwargs
    square = node.args[0] if is_mean else None
    if not isinstance(square, fx.Node) or square.kwargs:
        return False
    is_power = square.target in ("pow", torch.pow, operator.pow) and square.args[1:] == (2,)
    is_square = square.target in ("square", torch.square) and len(square.args) == 1
    difference = square.args[0]
    if not (is_power or is_square) or not isinstance(difference, fx.Node) or difference.kwargs:
        return False
    is_difference = difference.target in (operator.sub, torch.sub, "sub")
    return is_difference and {*difference.args} == {*inputs} and len(difference.args) == 2
