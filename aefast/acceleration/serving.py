"""A model's forward with the kernels in it, bound to the one instance."""

import copy
import warnings
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import nn

from aefast import backend
from aefast.acceleration.draws import TOO_FEW, Draw, draws_as_torch
from aefast.acceleration.recognition import (
    draws_of,
    own_draws_of,
    reads_parameter,
    stacks_of,
)
from aefast.acceleration.stack import NO_ROWS, NOT_PAYING, Stack, stack_of
from aefast.acceleration.tally import Tally
from aefast.acceleration.tracing import KEY, Trace, is_plain_tensor, trace
from aefast.nn.plain import global_hooks

# A forward is traced anew where something about the model is another: a mode, a level of noise, a
# module. One that is another each time is left alone.
MOST_TRACES = 8

# A layer alone has one product and one activation, which torch takes as fast; the call that would
# serve it costs more than it saves, the more so the smaller it is.
FEWEST_ALONE = 1 << 18

Part = Stack | Draw
# By a call's shape: no surprise.
EXPECTED = {NO_ROWS, NOT_PAYING, TOO_FEW}
# Of torch's, by which DataParallel and torch.jit.script copy a module.
REPLICATE, SCRIPT = "_replicate_for_data_parallel", "__prepare_scriptable__"


class AcceleratedGraph:
    """One state of a module: its graph with the kernels in it."""

    def __init__(self, module: nn.Module, traced: Trace, tallies: dict[str, Tally]) -> None:
        self.guard = traced.guard
        self.inputs = traced.inputs
        self.parts: list[Part] = []
        self.lone = 0
        self.replaced: dict[Any, Any] = {}
        self.own_draws: list[str] = []
        self.run = self._compiled(module, traced)
        self._share(tallies)

    def _share(self, tallies: dict[str, Tally]) -> None:
        """The same part in training and in evaluation has one tally."""
        names: list[str] = []
        for part in self.parts:
            number = names.count(str(part)) + 1
            names.append(str(part))
            name = names[-1] if number == 1 else f"{names[-1]}, number {number}"
            part.tally = tallies.setdefault(name, part.tally)

    def _compiled(self, module: nn.Module, traced: Trace) -> Callable[..., Any]:
        graph = traced.graph
        for layers in stacks_of(graph, module):
            stack = stack_of(layers)
            if len(layers) == 1 and stack.largest_product < FEWEST_ALONE:
                self.lone += 1
                continue
            nodes = [node for layer in layers for node in layer.nodes]
            self._replace(nodes[-1], stack, layers[0].input)
            for node in reversed(nodes):
                graph.erase_node(node)
        for draw in list(draws_of(graph, module)) if draws_as_torch() else ():
            self._replace(draw.node, Draw(draw.kind, draw.level), draw.x)
            graph.erase_node(draw.node)
        self.own_draws = own_draws_of(graph)
        # What weights alone were read for; all else stays, used or not.
        graph.eliminate_dead_code(lambda node: not reads_parameter(node))
        python = graph.python_code("self")
        namespace = dict(python.globals)
        # From the definition on: before it, functions are wrapped for tracing the code once more.
        exec(python.src[python.src.index("def forward") :], namespace)
        return MethodType(namespace["forward"], module)

    def _replace(self, node: Any, part: Part, argument: Any) -> None:
        """Put a part in a node's place. What it reads may have been replaced before."""
        self.parts.append(part)
        argument = self.replaced.get(argument, argument)
        with node.graph.inserting_before(node):
            new = node.graph.call_function(part, (argument,))
        node.replace_all_uses_with(new)
        self.replaced[node] = new


class Record:
    """What an accelerated module is served by.

    Attributes:
        module: the one it is bound to.
        loss: what it is trained by, if that was said.
        reason: why nothing of it is served; or None.
        bound: the names that stand on the instance.
    """

    def __init__(self, module: nn.Module, loss: Any) -> None:
        self.module = module
        self.loss = loss
        self.states: list[AcceleratedGraph] = []
        self.tallies: dict[str, Tally] = {}
        self.reason: str | None = None
        self.bound: set[str] = set()
        self.has_warned = False
        self.traces = 0
        self.current: AcceleratedGraph | None = self.look()

    def look(self) -> AcceleratedGraph | None:
        """The module as it stands; None where it cannot be served."""
        for state in self.states:
            if state.guard.holds():
                return state
        if self.traces == MOST_TRACES:
            self.reason = f"it was another one each time, {MOST_TRACES} times"
            return None
        self.traces += 1
        traced = backend.unavailable("cpp", "cpu") or trace(self.module)
        if isinstance(traced, str):
            self.reason = traced
            return None
        self.reason = None
        self.states.append(AcceleratedGraph(self.module, traced, self.tallies))
        return self.states[-1]

    def serve(self, arguments: tuple[Any, ...]) -> Any:
        """A call of the forward."""
        state = self.current
        if state is None or not state.guard.holds():
            state = self.current = self.look()
        if state is None or len(arguments) != state.inputs:
            return type(self.module).forward(self.module, *arguments)
        result = state.run(*arguments)
        if not self.has_warned:
            for part in state.parts:
                if part.tally.reasons:
                    self._warn(state)
        return result

    def _warn(self, state: AcceleratedGraph) -> None:
        reasons = {why for part in state.parts for why in part.tally.reasons} - EXPECTED
        if reasons and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"aefast: a call of the accelerated {type(self.module).__name__} ran as plain "
                f"PyTorch: {min(reasons)}; aefast.report(model) counts such calls",
                stacklevel=5,
            )


def _forward_like(original: Callable[..., Any]) -> Callable[..., Any]:
    """What stands in an accelerated module's place of ``forward``. It has that one's signature,
    which trainers ask for the arguments that they may give."""

    @wraps(original)
    def forward(self: nn.Module, *arguments: Any, **keywords: Any) -> Any:
        is_compiling = torch.compiler.is_compiling()
        if is_compiling or keywords or global_hooks() or not all(map(is_plain_tensor, arguments)):
            return type(self).forward(self, *arguments, **keywords)
        return self.__dict__[KEY].serve(arguments)

    return forward


def _extra_repr(self: nn.Module) -> str:
    own = type(self).extra_repr(self)
    parts = len(self.__dict__[KEY].tallies)
    line = f"accelerated: {parts} part{'s' if parts != 1 else ''} by aefast"
    return f"{own}\n{line}" if own else line


def _reduce(self: nn.Module, protocol: Any) -> Any:
    """A pickle of the module as it was: it takes nothing of this package to load it."""
    reduced = list(type(self).__reduce_ex__(self, protocol))
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, dict):
        bound = self.__dict__[KEY].bound
        reduced[2] = {name: value for name, value in state.items() if name not in bound}
    return tuple(reduced)


def _replicate(self: nn.Module) -> nn.Module:
    """A replica of DataParallel's is plain: what is bound here is bound to the module itself."""
    replica = type(self)._replicate_for_data_parallel(self)
    unbind(replica)
    return replica


def _prepare_scriptable(self: nn.Module) -> nn.Module:
    """What torch.jit.script reads: the module as it was, with the same parameters."""
    plain = copy.copy(self)
    plain._modules = plain._modules.copy()
    return plain


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy, accelerated in its turn."""
    record = self.__dict__[KEY]
    attributes = unbind(self)
    try:
        clone = copy.deepcopy(self, memo)
        loss = copy.deepcopy(record.loss, memo)
    finally:
        self.__dict__.update(attributes)
    bind(clone, loss)
    return clone


def bind(module: nn.Module, loss: Any) -> Record:
    """Put the kernels on a module; of one that they do not serve, the forward stays its own."""
    record = Record(module, loss)
    methods: dict[str, Callable[..., Any]] = {
        "__reduce_ex__": _reduce,
        "__deepcopy__": _deepcopy,
        REPLICATE: _replicate,
        SCRIPT: _prepare_scriptable,
    }
    if record.tallies:
        methods |= {"forward": _forward_like(type(module).forward), "extra_repr": _extra_repr}
    module.__dict__[KEY] = record
    module.__dict__.update({name: MethodType(one, module) for name, one in methods.items()})
    record.bound = {KEY, *methods}
    return record


def unbind(module: nn.Module) -> dict[str, Any]:
    """Take them off; what was there."""
    return {name: module.__dict__.pop(name) for name in module.__dict__[KEY].bound}
