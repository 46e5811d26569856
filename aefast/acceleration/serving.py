"""Replaces the forward of one module instance by a graph in which the kernels compute layers."""

import copy
import warnings
from collections.abc import Callable
from functools import wraps
from time import perf_counter
from types import MethodType
from typing import SupportsIndex

import torch
from torch import Tensor, fx, nn

from aefast import backend
from aefast.acceleration.call_counter import CallCounter
from aefast.acceleration.draws import TOO_FEW, Draw, draws_as_torch
from aefast.acceleration.recognition import (
    draws_of,
    reads_parameter,
    stacks_of,
    torch_draws_of,
)
from aefast.acceleration.stack import NO_ROWS, NOT_PAYING, TOO_SMALL, Stack, stack_of
from aefast.acceleration.tracing import KEY, TRACING, Trace, is_plain_tensor, trace
from aefast.nn.plain import global_hooks
from aefast.ops.shared.dispatch import is_in_function_mode
from aefast.ops.shared.precision import product_level

# A forward is traced again after the model changed: its mode, a level of noise, a submodule. After
# so many traces the model is taken to change at every call, and its own code runs.
MOST_TRACES = 8

# Shapes of calls that do not pay are forgotten once there are so many.
MOST_SHAPES = 64

# A single linear layer with fewer weights is left to torch, which computes one product and one
# activation as fast: there a call of the kernels costs more than it saves.
FEWEST_ALONE = 1 << 18

Operation = Stack | Draw
# Reasons that depend on a call's shape alone: such calls are counted without a warning.
EXPECTED = {NO_ROWS, NOT_PAYING, TOO_FEW, TOO_SMALL}
# The methods of torch's by which DataParallel and torch.jit.script copy a module.
REPLICATE, SCRIPT = "_replicate_for_data_parallel", "__prepare_scriptable__"


class AcceleratedGraph:
    """The graph of a module in one state, training or evaluation mode for instance, with the
    kernels in it.

    Attributes:
        guard: checks that the module is still in that state.
        inputs: the number of tensors that the graph takes.
        operations: the kernels' calls in it.
        single_layers: the number of single linear layers that were left to torch.
        torch_draws: the names of the draws that were left to torch.
        run: calls the graph.
        not_paying: the inputs' shapes and dtypes of calls all of whose operations fell back for
            their shape, with their reasons. Such calls take the module's own code from then on: the
            graph would add 20 us to them.
    """

    def __init__(self, module: nn.Module, traced: Trace, counters: dict[str, CallCounter]) -> None:
        self.guard = traced.guard
        self.inputs = traced.inputs
        self.operations: list[Operation] = []
        self.single_layers = 0
        self.replaced: dict[fx.Node, fx.Node] = {}
        self.torch_draws: list[str] = []
        self.run = self._compiled(module, traced)
        self.not_paying: dict[tuple[object, ...], list[tuple[CallCounter, str]]] = {}
        self._share_counters(counters)

    def _share_counters(self, counters: dict[str, CallCounter]) -> None:
        """Give equal operations one counter: a report counts training and evaluation together."""
        names: list[str] = []
        for operation in self.operations:
            number = names.count(str(operation)) + 1
            names.append(str(operation))
            name = names[-1] if number == 1 else f"{names[-1]}, number {number}"
            operation.counter = counters.setdefault(name, operation.counter)

    def _compiled(self, module: nn.Module, traced: Trace) -> Callable[..., object]:
        graph = traced.graph
        for layers in stacks_of(graph, module):
            stack = stack_of(layers)
            if len(layers) == 1 and stack.largest_product < FEWEST_ALONE:
                self.single_layers += 1
                continue
            nodes = [node for layer in layers for node in layer.nodes]
            self._replace(nodes[-1], stack, layers[0].input)
            for node in reversed(nodes):
                graph.erase_node(node)
        for draw in list(draws_of(graph, module)) if draws_as_torch() else ():
            self._replace(draw.node, Draw(draw.kind, draw.level), draw.x)
            graph.erase_node(draw.node)
        self.torch_draws = torch_draws_of(graph)
        # Remove reads of weights that only the replaced layers had. All other nodes stay, even
        # without readers: they may write.
        graph.eliminate_dead_code(lambda node: not reads_parameter(node))
        python = graph.python_code("self")
        namespace = dict(python.globals)
        # Lines before the definition wrap functions for torch.fx; only tracing would need them.
        exec(python.src[python.src.index("def forward") :], namespace)
        return MethodType(namespace["forward"], module)

    def _replace(self, node: fx.Node, operation: Operation, argument: fx.Node) -> None:
        """Put a kernel's call in a node's place. Its argument may have been replaced before."""
        self.operations.append(operation)
        argument = self.replaced.get(argument, argument)
        with node.graph.inserting_before(node):
            new = node.graph.call_function(operation, (argument,))
        node.replace_all_uses_with(new)
        self.replaced[node] = new


class AcceleratedState:
    """An accelerated module's graphs, its counts of calls and what was set on the instance.

    Attributes:
        module: the module.
        loss: the loss that ``accelerate`` was given; or None.
        states: a graph for each state that the module was called in.
        kept_trace: the graph that ``aefast.fit`` planned its steps from; None before.
        counters: counts of calls, by the name of the operation.
        reason: why no kernel serves the module; None where one does.
        bound: the attributes that were set on the instance. Another value of such a name is the
            user's.
    """

    def __init__(self, module: nn.Module, loss: Callable[..., Tensor] | None) -> None:
        self.module = module
        self.loss = loss
        self.states: list[AcceleratedGraph] = []
        self.kept_trace: Trace | None = None
        self.counters: dict[str, CallCounter] = {}
        self.reason: str | None = None
        self.bound: dict[str, object] = {}
        self.has_warned = False
        self.traces = 0
        self.current: AcceleratedGraph | None = self._graph_now()

    def _graph_now(self) -> AcceleratedGraph | None:
        """The graph for the module's current state; None where the kernels cannot serve it. Of
        several threads that ask for it, one traces."""
        with TRACING:
            return self._known_graph() or self._new_graph()

    def _known_graph(self) -> AcceleratedGraph | None:
        for state in self.states:
            if state.guard.holds():
                return state
        return None

    def _new_graph(self) -> AcceleratedGraph | None:
        if self.traces == MOST_TRACES:
            self.reason = f"it changed between calls {MOST_TRACES} times"
            return None
        self.traces += 1
        traced = backend.unavailable("cpp", "cpu") or trace(self.module)
        if isinstance(traced, str):
            self.reason = traced
            return None
        self.reason = None
        self.states.append(AcceleratedGraph(self.module, traced, self.counters))
        return self.states[-1]

    def serve(self, arguments: tuple[Tensor, ...]) -> object:
        """Call the forward: the graph, or the model's own code where no graph is valid, or where
        none of the kernels pays."""
        state = self.current
        if state is None or not state.guard.holds():
            state = self.current = self._graph_now()
        if state is None or len(arguments) != state.inputs or not state.operations:
            return type(self.module).forward(self.module, *arguments)
        key = product_level("cpu"), *[(one.shape, one.dtype) for one in arguments]
        fallbacks = state.not_paying.get(key)
        if fallbacks is not None:
            return self._serve_without_kernels(arguments, fallbacks)
        result = state.run(*arguments)
        counters = [operation.counter for operation in state.operations]
        if any(counter.last.reason is not None for counter in counters):
            self._note_fallbacks(state, key, counters)
        return result

    def _serve_without_kernels(
        self, arguments: tuple[Tensor, ...], fallbacks: list[tuple[CallCounter, str]]
    ) -> object:
        """Call the model's own code, whose time is counted once, at the first operation."""
        start = perf_counter()
        result = type(self.module).forward(self.module, *arguments)
        for counter, reason in fallbacks:
            counter.count(reason, start)
            start = perf_counter()
        return result

    def _note_fallbacks(
        self, state: AcceleratedGraph, key: tuple[object, ...], counters: list[CallCounter]
    ) -> None:
        """Remember a call that nothing served, and warn, once, of one that should have been."""
        reasons = [(counter, counter.last.reason) for counter in counters]
        fallbacks = [(counter, reason) for counter, reason in reasons if reason is not None]
        unexpected = {reason for _, reason in fallbacks} - EXPECTED
        if len(fallbacks) == len(counters) and not unexpected:
            if len(state.not_paying) >= MOST_SHAPES:
                state.not_paying.clear()
            state.not_paying[key] = fallbacks
        if unexpected and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"aefast: a call of the accelerated {type(self.module).__name__} ran as plain "
                f"PyTorch: {min(unexpected)}; aefast.report(model) counts such calls",
                stacklevel=5,
            )


def _forward_like(original: Callable[..., object]) -> Callable[..., object]:
    """The ``forward`` of an accelerated module. It keeps the original's signature: trainers inspect
    it for the names of the arguments."""

    @wraps(original)
    def forward(self: nn.Module, *arguments: object, **keywords: object) -> object:
        is_seen = torch.compiler.is_compiling() or global_hooks() or is_in_function_mode()
        if is_seen or keywords or not all(map(is_plain_tensor, arguments)):
            return type(self).forward(self, *arguments, **keywords)
        record = self.__dict__.get(KEY)
        if record is None:  # restored, while someone holds this forward
            return type(self).forward(self, *arguments)
        return record.serve(arguments)

    return forward


def _extra_repr(self: nn.Module) -> str:
    original = type(self).extra_repr(self)
    count = len(self.__dict__[KEY].counters)
    line = f"accelerated: {count} part{'s' if count != 1 else ''} by aefast"
    return f"{original}\n{line}" if original else line


def _reduce(self: nn.Module, protocol: SupportsIndex) -> tuple[object, ...]:
    """Pickle the plain module, so that loading it does not need this package."""
    reduced = list(type(self).__reduce_ex__(self, protocol))
    state = reduced[2] if len(reduced) > 2 else None
    if isinstance(state, dict):
        bound = self.__dict__[KEY].bound
        reduced[2] = {
            name: value
            for name, value in state.items()
            if name not in bound or bound[name] is not value
        }
    return tuple(reduced)


def _replicate(self: nn.Module) -> nn.Module:
    """DataParallel's replica, made plain: the methods bound here would call the original module."""
    replica = type(self)._replicate_for_data_parallel(self)
    unbind(replica)
    return replica


def _prepare_scriptable(self: nn.Module) -> nn.Module:
    """The plain module that torch.jit.script compiles. It has the same parameters."""
    plain = copy.copy(self)
    plain._modules = plain._modules.copy()
    return plain


def _deepcopy(self: nn.Module, memo: dict[int, object]) -> nn.Module:
    """A deep copy, which is accelerated as well."""
    record = self.__dict__[KEY]
    attributes = unbind(self)
    try:
        clone = copy.deepcopy(self, memo)
        loss = copy.deepcopy(record.loss, memo)
    finally:
        self.__dict__.update(attributes)
    bind(clone, loss)
    return clone


def bind(module: nn.Module, loss: Callable[..., Tensor] | None) -> AcceleratedState:
    """Accelerate a module. If no kernel serves any part of it, its forward stays its own."""
    record = AcceleratedState(module, loss)
    methods: dict[str, Callable[..., object]] = {
        "__reduce_ex__": _reduce,
        "__deepcopy__": _deepcopy,
        REPLICATE: _replicate,
        SCRIPT: _prepare_scriptable,
    }
    if record.counters:
        methods |= {"forward": _forward_like(type(module).forward), "extra_repr": _extra_repr}
    record.bound = {KEY: record} | {name: MethodType(f, module) for name, f in methods.items()}
    module.__dict__.update(record.bound)
    return record


def unbind(module: nn.Module) -> dict[str, object]:
    """Remove from the instance what :func:`bind` set there and nobody replaced, and return it."""
    attributes = module.__dict__
    bound = attributes[KEY].bound
    ours = {name: value for name, value in bound.items() if attributes.get(name) is value}
    for name in ours:
        del attributes[name]
    return ours
