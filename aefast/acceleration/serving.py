"""Replaces the forward of one module instance by a graph in which the kernels compute layers."""

import copy
import os
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from time import perf_counter
from types import MethodType
from typing import Any, SupportsIndex

import torch
from torch import Tensor, fx, nn

from aefast import backend
from aefast.acceleration.call_counter import CallCounter
from aefast.acceleration.draws import TOO_FEW
from aefast.acceleration.graph import AcceleratedGraph, Fallbacks
from aefast.acceleration.recognition import is_altered
from aefast.acceleration.stack import NO_ROWS, NOT_PAYING, TOO_SMALL, Stack
from aefast.acceleration.topk import DENSE, FEW_ROWS, TopK
from aefast.acceleration.tracing import KEY, TRACING, Trace, is_plain_tensor, trace
from aefast.messages import PACKAGE, level_outside
from aefast.nn.plain import global_hooks, own_hooks
from aefast.ops.shared.dispatch import is_in_function_mode
from aefast.ops.shared.precision import product_level
from aefast.torch_private import count_dispatch_modes, is_autocast_enabled_anywhere

# A forward is traced again after the model changed: its mode, a level of noise, a submodule. After
# so many traces the model is taken to change at every call, and its own code runs.
MOST_TRACES = 8

# Shapes of calls that do not pay are forgotten once there are so many.
MOST_SHAPES = 64

# Whether the model is still the same is asked of every so many calls that do not pay. Its own code
# gives the right numbers in any case; to ask each time would take 7 us of a step of 400.
CALLS_TRUSTED = 64

MORE_ARGUMENTS = "the call passes arguments that have a default"
# The operations that compute a model's layers.
LAYERS = (Stack, TopK)
# Reasons that depend on a call's shape or arguments alone: such calls are counted without a
# warning.
EXPECTED = {DENSE, FEW_ROWS, MORE_ARGUMENTS, NO_ROWS, NOT_PAYING, TOO_FEW, TOO_SMALL}
NOT_PLAIN = "an argument is no plain tensor"
WATCHED = "hooks of all modules, or a function mode, see the call"
# Which operations autocast casts depends on how a layer is written.
AUTOCAST = "autocast is at work"
TORCH = f"{Path(torch.__file__).parent}{os.sep}"
# The methods of torch's by which DataParallel and torch.jit.script copy a module.
REPLICATE, SCRIPT = "_replicate_for_data_parallel", "__prepare_scriptable__"


class NotPaying:
    """Calls of one shape, all of whose operations fell back for their shape. They take the module's
    own code: the graph would add 20 us to each.

    Attributes:
        state: the graph in which nothing paid.
        fallbacks: the counts of its operations, with the reasons.
    """

    def __init__(self, state: AcceleratedGraph, fallbacks: Fallbacks) -> None:
        self.state = state
        self.fallbacks = fallbacks
        self.calls = 0

    def is_trusted(self) -> bool:
        """Whether this call is taken for one of the same model without asking."""
        self.calls += 1
        return self.calls % CALLS_TRUSTED != 0

    def count(self, start: float) -> None:
        """Count a call of the module's own code that began at ``start``, with its time once."""
        self.fallbacks[0][0].fallback_ms += 1e3 * (perf_counter() - start)
        for counter, _ in self.fallbacks:
            counter.fallbacks += 1


class AcceleratedState:
    """An accelerated module's graphs, its counts of calls and what was set on the instance.

    Attributes:
        module: the module.
        loss: the loss that ``accelerate`` was given; or None.
        states: a graph for each state that the module was called in.
        kept_trace: the graph that ``aefast.fit`` planned its steps from; None before.
        counters: counts of calls, by the name of the operation.
        reason: why no kernel serves the module; None where one does.
        not_paying: calls in which nothing paid, by the mode, the precision and the inputs' shapes
            and dtypes.
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
        self.not_paying: dict[tuple[object, ...], NotPaying] = {}
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
        state = AcceleratedGraph(self.module, traced, self.counters)
        state.missing = self._missing(state) if self.states else []
        self.states.append(state)
        return state

    def _missing(self, state: AcceleratedGraph) -> Fallbacks:
        """The layers of the first graph that a new one lacks because the model was changed."""
        layers = [one for one in self.states[0].operations if isinstance(one, LAYERS)]
        reason = self._change(state)
        if reason is None:
            return []
        counters = [operation.counter for operation in state.operations]
        return [(one.counter, reason) for one in layers if one.counter not in counters]

    def _change(self, state: AcceleratedGraph) -> str | None:
        """What was done to the model's modules since its first graph, so that the kernels compute
        less of it; None for nothing."""
        for name, child in self.module.named_modules():
            if child is not self.module and own_hooks(child.__dict__):
                return f"a hook stands on {name}"
        modules = list(self.module.modules())
        has_layers = any(isinstance(one, LAYERS) for one in state.operations)
        is_other = list(map(id, modules)) != list(map(id, self.states[0].guard.modules))
        if is_other and not has_layers:
            return "a module was put in another's place"
        changed = (name for name, child in self.module.named_modules() if is_altered(child))
        return next((f"{name} is no plain Linear any more" for name in changed), None)

    def as_positional(
        self, arguments: tuple[object, ...], keywords: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """A call's arguments, without keywords where these are all that the graph takes besides."""
        names = self.states[0].inputs[len(arguments) :]
        if keywords.keys() != set(names):
            return arguments, keywords
        return (*arguments, *(keywords[name] for name in names)), {}

    def is_given_more(self, arguments: tuple[object, ...]) -> bool:
        """Whether a call passes more than the tensors that the graphs take."""
        return len(arguments) > len(self.states[0].inputs)

    def serve(self, arguments: tuple[Tensor, ...]) -> object:
        """Call the forward: the graph, or the model's own code where no graph is valid, or where
        none of the kernels pays."""
        state = self.current
        if state is None or not state.guard.holds():
            state = self.current = self._graph_now()
        key = self._key(arguments)
        not_paying = self.not_paying.get(key)
        if not_paying is not None and not_paying.state is not state:  # the model changed
            self.not_paying.pop(key, None)
            not_paying = None
        if state is None:
            return self.serve_without_kernels(arguments, {}, self._all_by(str(self.reason)))
        if len(arguments) < len(state.inputs):  # which raises the forward's own error
            return self.serve_without_kernels(arguments, {}, [])
        if not state.operations:
            return self.serve_without_kernels(arguments, {}, state.missing)
        if not_paying is not None:
            return self.serve_without_kernels(arguments, {}, not_paying.fallbacks)
        result = state.run(*arguments)
        counters = [operation.counter for operation in state.operations]
        if state.missing or any(counter.last.reason is not None for counter in counters):
            self._note_fallbacks(state, key, counters)
        return result

    def known_not_to_pay(self, arguments: tuple[Tensor, ...]) -> "NotPaying | None":
        """What is known of calls like this one, if none of the kernels paid in them."""
        not_paying = self.not_paying.get(self._key(arguments))
        return not_paying if not_paying is not None and not_paying.is_trusted() else None

    def _key(self, arguments: tuple[Tensor, ...]) -> tuple[object, ...]:
        if len(arguments) == 1:  # 0.5 us instead of 1.4
            inputs: tuple[object, ...] = arguments[0].shape, arguments[0].dtype
        else:
            inputs = tuple([(one.shape, one.dtype) for one in arguments])
        return inputs, self.module.training, product_level("cpu")

    def serve_without_kernels(
        self, arguments: tuple[object, ...], keywords: dict[str, object], fallbacks: Fallbacks
    ) -> object:
        """Call the model's own code, whose time is counted once, at the first operation."""
        start = perf_counter()
        result = type(self.module).forward(self.module, *arguments, **keywords)
        self._count(fallbacks, start)
        return result

    def refuse(
        self, arguments: tuple[object, ...], keywords: dict[str, object], reason: str
    ) -> object:
        """Call the model's own code, for this reason."""
        return self.serve_without_kernels(arguments, keywords, self._all_by(reason))

    def _all_by(self, reason: str) -> Fallbacks:
        """Each operation of the current graph, or of the first one, with this reason."""
        state = self.current or next(iter(self.states), None)
        return [] if state is None else [(one.counter, reason) for one in state.operations]

    def _note_fallbacks(
        self, state: AcceleratedGraph, key: tuple[object, ...], counters: list[CallCounter]
    ) -> None:
        """Remember a call that nothing served, and count what the graph no longer has."""
        reasons = [(counter, counter.last.reason) for counter in counters]
        fallbacks = [(counter, reason) for counter, reason in reasons if reason is not None]
        is_expected = {reason for _, reason in fallbacks} <= EXPECTED
        if len(fallbacks) == len(counters) and is_expected:
            if len(self.not_paying) >= MOST_SHAPES:
                self.not_paying.clear()
            self.not_paying[key] = NotPaying(state, fallbacks + state.missing)
        self._count(state.missing, perf_counter())
        self._warn(fallbacks)

    def _count(self, fallbacks: Fallbacks, start: float) -> None:
        for counter, reason in fallbacks:
            counter.count(reason, start)
            start = perf_counter()
        self._warn(fallbacks)

    def _warn(self, fallbacks: Fallbacks) -> None:
        """Warn, once, of a call that fell back where the report said that kernels compute it."""
        unexpected = {reason for _, reason in fallbacks} - EXPECTED
        if unexpected and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"aefast: a call of the accelerated {type(self.module).__name__} ran as plain "
                f"PyTorch: {min(unexpected)}; aefast.report(model) counts such calls",
                stacklevel=level_outside(PACKAGE, TORCH),
            )


def is_traced_call(arguments: tuple[object, ...]) -> bool:
    """Whether arguments that are no plain tensors are a trace's: placeholders, fake tensors."""
    return count_dispatch_modes() > 0 or any(isinstance(one, fx.Proxy) for one in arguments)


def _forward_like(original: Callable[..., object]) -> Callable[..., object]:
    """The ``forward`` of an accelerated module. It keeps the original's signature: trainers inspect
    it for the names of the arguments."""

    @wraps(original)
    def forward(self: nn.Module, *arguments: Any, **keywords: Any) -> object:
        if torch.compiler.is_compiling() or KEY not in self.__dict__:  # restored, yet called
            return type(self).forward(self, *arguments, **keywords)
        record: AcceleratedState = self.__dict__[KEY]
        if record.not_paying and not keywords and all(map(is_plain_tensor, arguments)):
            known = record.known_not_to_pay(arguments)
            if known is not None:
                start = perf_counter()
                result = type(self).forward(self, *arguments)
                known.count(start)
                return result
        if keywords:
            arguments, keywords = record.as_positional(arguments, keywords)
        if global_hooks() or is_in_function_mode():
            return record.refuse(arguments, keywords, WATCHED)
        if is_autocast_enabled_anywhere():
            return record.refuse(arguments, keywords, AUTOCAST)
        if keywords or record.is_given_more(arguments):
            return record.refuse(arguments, keywords, MORE_ARGUMENTS)
        if all(map(is_plain_tensor, arguments)):
            return record.serve(arguments)
        if is_traced_call(arguments):
            return type(self).forward(self, *arguments)
        return record.refuse(arguments, keywords, NOT_PLAIN)

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
