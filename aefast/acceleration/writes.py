"""Finds the nodes of a graph that may write to memory: operations in place, and unknown code."""

import inspect
import operator
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from torch import fx, nn

from aefast.nn.plain import own_hooks
from aefast.torch_private import OpOverload, OpOverloadPacket, mutates


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    """``operator.iadd`` and its like, as a function that torch.fx writes as a call.

    For operator's own function torch.fx writes the statement ``x += y``. If x is a number, that
    gives the name x a new value, which later readers of the old one would take.
    """
    operate: Callable[[Any, Any], Any] = getattr(operator, name)

    def write(x: Any, y: Any) -> Any:
        return operate(x, y)

    write.__name__ = write.__qualname__ = name
    return write


# The functions behind ``+=`` to ``@=``.
AUGMENTED = {
    name: _in_place(name)
    for name in (
        *("iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow"),
        *("irshift", "isub", "itruediv", "ixor"),
    )
}
IN_PLACE = {
    *AUGMENTED.values(),
    *(getattr(operator, name) for name in (*AUGMENTED, "setitem")),
}


# Arguments that make a function write, and settings that make a module do so.
SETTINGS = ("inplace", "max_norm")


class Writes:
    """Which nodes of a graph write to memory that other nodes may read."""

    def __init__(self, graph: fx.Graph, module: nn.Module) -> None:
        self._writing = {node for node in graph.nodes if is_write(node, module)}
        self._before: dict[fx.Node, int] = {}
        count = 0
        for node in graph.nodes:
            self._before[node] = count
            count += node in self._writing

    def are_among(self, nodes: list[fx.Node]) -> bool:
        """Whether between the first and the last of these nodes another one stands that writes."""
        writes = sum(node in self._writing for node in nodes[:-1])
        return self._before[nodes[-1]] - self._before[nodes[0]] > writes


def is_write(node: fx.Node, module: nn.Module) -> bool:
    """Whether a node may write to memory that others read. A call without readers is taken for a
    write: its side effect is why it is there."""
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        is_unknown = own_hooks(called.__dict__) or "forward" in called.__dict__
        return is_unknown or any(getattr(called, name, None) for name in SETTINGS)
    if node.op not in ("call_function", "call_method"):
        return False
    if not node.users:
        return True
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return _writes(node.target, node.args, node.kwargs)


def _writes(function: Any, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
    if isinstance(function, OpOverload | OpOverloadPacket):
        return mutates(function)
    if function in IN_PLACE or function.__name__.endswith("_") or kwargs.get("out") is not None:
        return True
    if not isinstance(function, FunctionType):
        return False
    arguments = inspect.signature(function).bind(*args, **kwargs).arguments
    return any(arguments.get(name, None) not in (None, False) for name in SETTINGS)
