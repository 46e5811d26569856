"""A module's forward as a graph, by torch.fx, and the conditions under which the graph is valid."""

import dis
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from aefast import torch_private
from aefast.acceleration.locks import free_after_fork
from aefast.acceleration.purity import ImpureError, Read, reads_of, settings_of
from aefast.acceleration.recognition import write_products_as_linear
from aefast.acceleration.writes import AUGMENTED
from aefast.nn.plain import own_hooks
from aefast.thread_local_generator import ThreadLocalGenerator

# The attribute of an accelerated module that holds its graphs.
KEY = "_accelerated"

# Functions that take sizes, which may be a placeholder's: randn(x.size(0), 20, device=x.device).
FACTORIES = (torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros)


def _functions() -> tuple[Callable[..., Tensor], ...]:
    """The functions that torch's modules call and the kernels compute."""
    return (
        *(F.linear, F.relu, F.leaky_relu, F.softplus, F.gelu, F.silu, F.dropout),
        *(torch.sigmoid, torch.tanh),
    )


# Profilers and simulators put functions of their own in their places.
FUNCTIONS = _functions()

# Held by the thread that traces.
TRACING = free_after_fork(threading.RLock())

OWN_TENSOR = "its forward makes a tensor of its own"

# torch modules that only call others: the graph holds those others' calls.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Trace:
    """The graph of a module's forward.

    Attributes:
        graph: the operations. Calls of torch's own modules, and of modules with hooks, are nodes.
        inputs: the names of the tensors that it takes.
        guard: checks that the graph is still what the forward computes.
    """

    def __init__(self, graph: fx.Graph, inputs: list[str], guard: "Guard") -> None:
        self.graph = graph
        self.inputs = inputs
        self.guard = guard


def trace(module: nn.Module) -> Trace | str:
    """The graph of a module's forward in the module's current state; or the reason, one line, why
    a graph cannot represent it."""
    instance_names = module.__dict__.keys() & {"forward", "extra_repr", "__deepcopy__"}
    if instance_names and KEY not in module.__dict__:
        return f"{type(module).__name__}: this instance has a {min(instance_names)} of its own"
    if _functions() != FUNCTIONS:
        return f"{type(module).__name__}: a function of torch's that its layers call was replaced"
    try:
        required = _required_arguments(module)
        tree = list(module.modules())
        if any(isinstance(child, torch.jit.ScriptModule) for child in tree):
            raise ImpureError("it holds a module of torch.jit")
        own_code = _own_code(module)
        for child in own_code:
            if child is not module and type(child).__call__ is not nn.Module.__call__:
                raise ImpureError(f"{type(child).__name__} in it has a __call__ of its own")
        reads = [read for child in own_code for read in reads_of(child, tree)]
        reads += [read for child in tree if _has_settings(child) for read in settings_of(child)]
    except ImpureError as problem:
        return f"{type(module).__name__}: {problem}"
    tracer = _Tracer(required)
    try:
        with _NoDraws(torch.device("cpu")):
            graph = tracer.trace(module)
        if any("_tensor_constant" in str(node.target) for node in graph.nodes):
            raise ImpureError(OWN_TENSOR)
    except ImpureError as problem:
        return f"{type(module).__name__}: {problem}"
    except Exception as problem:  # user code, run on placeholders, may raise anything
        line = (str(problem).strip() or type(problem).__name__).splitlines()[0].split(". ")[0]
        return f"{type(module).__name__}: torch.fx cannot trace its forward ({line})"
    write_products_as_linear(graph, module)
    return Trace(graph, required, Guard(module, reads))


def _required_arguments(module: nn.Module) -> list[str]:
    """The names of the arguments without a default; the others keep their defaults."""
    function = type(module).forward
    if function is nn.Module.forward or not inspect.isfunction(function):
        raise ImpureError("it has no forward")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise ImpureError("its forward takes any number of arguments")
    required = [p.name for p in parameters if p.default is p.empty and p.kind != p.KEYWORD_ONLY]
    if not required:
        raise ImpureError("its forward takes no argument")
    return required


def _own_code(module: nn.Module) -> list[nn.Module]:
    """The modules whose forward torch.fx runs on placeholders."""
    functions = [] if type(module) in CONTAINERS else [module]
    for child in module.children():
        if not is_leaf(child):
            functions += _own_code(child)
    return functions


def is_leaf(module: nn.Module) -> bool:
    """Whether a module's call is one node of the graph: torch's own modules, those with hooks or
    with a forward on the instance, and those that were compiled."""
    if own_hooks(module.__dict__) or has_other_code(module):
        return True
    return is_torchs(module) and type(module) not in CONTAINERS


def has_other_code(module: nn.Module) -> bool:
    """Whether a call of a module does not run its class's forward: it was compiled, or someone set
    a forward on it."""
    attributes = module.__dict__
    return own_forward(attributes) is not None or attributes.get("_compiled_call_impl") is not None


def own_forward(attributes: dict[str, Any]) -> object:
    """The forward that someone set on the module with these attributes; None where none was."""
    forward, record = attributes.get("forward"), attributes.get(KEY)
    return None if record is not None and record.bound.get("forward") is forward else forward


def is_torchs(module: nn.Module) -> bool:
    """Whether a module's class is torch's own."""
    return type(module).__module__.startswith("torch.")


def _has_settings(module: nn.Module) -> bool:
    """Whether the graph depends on a module's settings, such as a slope or a probability."""
    return is_leaf(module) and type(module) is not nn.Linear


class _Augmented:
    """Records ``x += y`` of a placeholder as a write to x. torch.fx alone records ``x + y``."""


def _augmented(function: Callable[..., object]) -> Callable[..., fx.Proxy]:
    def record(self: fx.Proxy, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


for _name, _function in AUGMENTED.items():
    setattr(_Augmented, f"__{_name}__", _augmented(_function))


class _Unpacked(fx.Proxy):
    def __iter__(self) -> Iterator[fx.Proxy]:
        """The parts of ``a, b = x``. The graph compares their number, as Python does: torch.fx
        alone would take the first two of any number. ``topk`` has always two."""
        count = _count_unpacked(inspect.currentframe())
        if count is None:
            parts: Iterator[fx.Proxy] = self.tracer.iter(self)
            return parts
        target = self.node.target
        whole: Any = self
        if getattr(target, "__name__", target) != "topk":
            whole = self.tracer.create_proxy("call_function", unpacked, (self, count), {})
        return iter([whole[index] for index in range(count)])


class _Attribute(_Augmented, _Unpacked, fx.proxy.Attribute):
    pass


class _Proxy(_Augmented, _Unpacked):
    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Attribute(self, name)


def _count_unpacked(frame: FrameType | None) -> int | None:
    """The number of names that the caller of a frame gives the parts of what it unpacks; None where
    it does something else."""
    caller = frame.f_back if frame is not None else None
    if caller is None:
        return None
    for instruction in dis.get_instructions(caller.f_code):
        if instruction.offset == caller.f_lasti and instruction.opname == "UNPACK_SEQUENCE":
            return int(instruction.argval)
    return None


def unpacked(parts: Iterable[object], count: int) -> tuple[object, ...]:
    """The parts, of which there must be so many.

    Raises:
        ValueError: there are more or fewer, with Python's own message.
    """
    parts = tuple(parts)
    if len(parts) < count:
        raise ValueError(f"not enough values to unpack (expected {count}, got {len(parts)})")
    if len(parts) > count:
        raise ValueError(f"too many values to unpack (expected {count})")
    return parts


class _NoDraws(ThreadLocalGenerator):
    """A draw while tracing is of tensors that are no placeholders. It is refused before it advances
    a generator."""

    def draw(
        self, function: Any, arguments: tuple[object, ...], options: dict[str, object]
    ) -> object:
        raise ImpureError(OWN_TENSOR)


class ThreadsTracer(fx.Tracer):
    """Traces one thread. torch.fx has every module of the process call the tracer while it traces:
    the calls of other threads go on as they were, and one thread traces at a time."""

    def trace(self, root: Any, concrete_args: Any = None) -> fx.Graph:
        with TRACING:
            self.thread = threading.get_ident()
            graph: fx.Graph = torch_private.trace_apart(self, root, concrete_args)
            return graph

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class _Tracer(ThreadsTracer):
    # Buffers are placeholders, too. So a branch on a buffer's value, or a number taken from it,
    # fails to trace, instead of staying as it was when the graph was made.
    proxy_buffer_attributes = True

    def __init__(self, required: list[str]) -> None:
        # Calls of torch.distributions are nodes: they check their arguments' values, which
        # placeholders do not have.
        modules: Any = math, torch.distributions
        super().__init__(autowrap_modules=modules, autowrap_functions=FACTORIES)
        torch_private.search_when_tracing(self, torch)
        self.required = required

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Placeholders for the arguments without a default. The others keep their defaults: for a
        placeholder ``argument is None`` would be False."""
        names = self.required
        return root_fn, [
            self.root,
            *(self.create_proxy("placeholder", name, (), {}) for name in names),
        ]


class Guard:
    """The state that a graph was made from: its modules, and the values that their code reads.

    A graph is valid while none of these has changed; :meth:`holds` compares them, before each call
    of the graph.
    """

    def __init__(self, module: nn.Module, reads: list[Read]) -> None:
        self.modules = list(module.modules())
        self.reads = reads
        self.attributes = [child.__dict__ for child in self.modules]
        self.hooks = [
            attributes[name]
            for child, attributes in zip(self.modules, self.attributes, strict=True)
            for name in (
                "_forward_hooks",
                "_forward_pre_hooks",
                "_backward_hooks",
                "_backward_pre_hooks",
            )
            if child is not module  # its own hooks run around the forward, not in it
        ]
        # Parameters and buffers are read at each call; which there are, and which are None, is not.
        self.tensors = [
            child.__dict__[name]
            for child in self.modules
            for name in ("_parameters", "_buffers")
            if child.__dict__[name] or not is_torchs(child)
        ]
        self.traced_state = self._state()

    def _state(self) -> list[object]:
        state: list[object] = [list(map(type, self.modules[1:])), list(map(bool, self.hooks))]
        state.append([type(child).forward for child in self.modules])
        for attributes in self.attributes:
            state += (
                attributes.get("training"),
                own_forward(attributes),
                [*attributes["_modules"].values()],
            )
        for tensors in self.tensors:
            for name, tensor in tensors.items():
                state += name, tensor is None
        return state

    def holds(self) -> bool:
        if _functions() != FUNCTIONS or self._state() != self.traced_state:
            return False
        return all(map(Read.is_current, self.reads))


def is_plain_tensor(value: object) -> bool:
    """Whether it is a torch.Tensor or nn.Parameter. Other subclasses may override operations."""
    return type(value) is Tensor or type(value) is nn.Parameter
