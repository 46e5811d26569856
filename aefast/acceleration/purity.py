"""Reads a forward's bytecode for side effects, and for the values that it depends on.

A graph holds operations on tensors only. Side effects (storing, printing, drawing random numbers,
asking which mode is on) would be lost. A value that the code reads would stay as it was when the
graph was made. So a forward with side effects keeps its own code, and for any other the values
that it reads are compared before each call of the graph.
"""

import builtins
import dis
import inspect
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import NamedTuple

import torch
from torch import nn

# Builtins without side effects. Given a placeholder, they work or raise: none gives a wrong value.
PURE_BUILTINS = {
    *("abs", "all", "any", "dict", "enumerate", "float", "int", "len", "list", "map", "max", "min"),
    *("range", "reversed", "round", "sorted", "sum", "super", "tuple", "zip"),
}
# Modules whose functions compute on tensors, except for those that read or change a mode.
TORCH_MODULES = (
    *("torch", "torch.nn.functional", "torch.special", "torch.functional", "torch.distributions"),
    "math",
)
MODES = ("are_", "default_", "get_", "initial_", "is_", "seed", "set_", "use_")
NOT_COMPUTING = {
    *("autocast", "compile", "cuda", "enable_grad", "inference_mode", "is_deterministic"),
    *("is_in_onnx_export", "is_tracing", "manual_seed", "no_grad"),
    # Functions that read or set a mode, or that test a value's type, as is_tensor does.
    *(name for name in dir(torch) if name.startswith(MODES) and not hasattr(torch.Tensor, name)),
}
# What every module has and a forward may read: it changes no module, and returns no tensors. A
# graph would keep a tensor's numbers as they were when it was made.
HARMLESS = {
    *("_get_name", "_modules", "children", "extra_repr", "forward", "get_submodule", "modules"),
    *("named_children", "named_modules", "training"),
}
_EMPTY = nn.Module()
UNSAFE = {name for name in dir(_EMPTY) if not hasattr(torch.Tensor, name)} - HARMLESS
UNSAFE |= {"__class__", "__dict__"}
STORES = {
    "STORE_ATTR": "stores {}",
    "DELETE_ATTR": "deletes {}",
    "STORE_GLOBAL": "stores {}",
    "DELETE_GLOBAL": "deletes {}",
    "STORE_SUBSCR": "stores an element",
    "DELETE_SUBSCR": "deletes an element",
    "IMPORT_NAME": "imports {}",
    "MATCH_CLASS": "asks for a class",
    "BEFORE_WITH": "has a with block",
    "SETUP_FINALLY": "has a try block",
    "PUSH_EXC_INFO": "has a try block",
    "YIELD_VALUE": "is a generator",
    "RETURN_GENERATOR": "is a generator",
}
SIMPLE = (bool, int, float, str, type(None), torch.dtype, torch.device)

Functions = FunctionType | BuiltinFunctionType


class Read(NamedTuple):
    """A plain value that a forward reads: its namespace, and its value when the graph was made."""

    namespace: Mapping[str, object]
    name: str
    value: object

    def is_current(self) -> bool:
        now = self.namespace.get(self.name)
        return now is self.value or (type(now) is type(self.value) and now == self.value)


class ImpureError(Exception):
    """One line that names a forward's side effect."""


def reads_of(module: nn.Module, tree: list[nn.Module]) -> list[Read]:
    """The plain values that a module's forward reads, from it or from other modules of its model.

    Raises:
        ImpureError: the forward has a side effect.
    """
    visitor = _Visitor(tree)
    visitor.method("forward", module)
    return visitor.reads


def settings_of(module: nn.Module) -> list[Read]:
    """The plain values that one of torch's own modules holds."""
    attributes = module.__dict__
    names = attributes.keys() - vars(_EMPTY).keys()
    return [
        Read(attributes, name, attributes[name]) for name in names if _is_simple(attributes[name])
    ]


def check_pure(function: object) -> None:
    """Check a function that is not a module's method, such as a loss, for side effects.

    Raises:
        ImpureError: it has one.
    """
    _Visitor([]).function(function)


class _Visitor:
    """Walks through the bytecode of functions, and of the functions that they call.

    Attributes:
        tree: the modules of the model. Bytecode does not say whose attribute a name is, so the
            name is looked up in each of them.
        reads: the plain values that the code reads.
    """

    def __init__(self, tree: list[nn.Module]) -> None:
        self.tree = tree
        self.reads: list[Read] = []
        self.visited: set[object] = set()

    def function(self, function: object) -> None:
        if function in self.visited or _is_torchs(function):
            return
        self.visited.add(function)
        if not isinstance(function, FunctionType):
            raise ImpureError(f"calls {getattr(function, '__qualname__', function)!s}")
        if inspect.unwrap(function) is not function:
            raise ImpureError(f"{function.__name__} is decorated")
        for default in _defaults(function):
            if not (_is_simple(default) or _is_torchs(default)):
                kind = type(default).__name__
                raise ImpureError(f"{function.__name__} has a default that is a {kind}")
        codes = list(_codes(function.__code__))
        has_super = any("super" in code.co_names for code in codes)
        for code in codes:
            for instruction in dis.get_instructions(code):
                self._instruction(instruction, function, has_super)

    def _instruction(
        self, instruction: dis.Instruction, function: FunctionType, has_super: bool
    ) -> None:
        name, does = instruction.argval, instruction.opname
        if does in STORES:
            raise ImpureError(f"{function.__name__} {STORES[does].format(name)}")
        if does in ("LOAD_GLOBAL", "LOAD_NAME"):
            self._global(name, function)
        elif does in ("LOAD_DEREF", "LOAD_CLASSDEREF") and name != "__class__":
            if name in function.__code__.co_freevars:
                raise ImpureError(f"{function.__name__} reads {name} of the function around it")
        elif does in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"):
            self._attribute(name, has_super)

    def _global(self, name: str, function: FunctionType) -> None:
        namespace = function.__globals__
        if name in namespace:
            self._value(Read(namespace, name, namespace[name]))
        elif name not in PURE_BUILTINS and not _is_error(getattr(builtins, name, None)):
            raise ImpureError(f"{function.__name__} calls {name}")

    def _attribute(self, name: str, has_super: bool) -> None:
        """Read an attribute. Its owner is unknown, so it is compared on each module that has it."""
        if name in NOT_COMPUTING or name in UNSAFE:
            raise ImpureError(f"reads {name}")
        for module in self.tree:
            attributes = module.__dict__
            # The standard attributes, and forwards, are compared by the graph's guard.
            if name in attributes and name not in vars(_EMPTY) and name != "forward":
                self._value(Read(attributes, name, attributes[name]))
            else:
                self.method(name, module, has_super)

    def method(self, name: str, module: nn.Module, has_super: bool = False) -> None:
        """Visit the method or property of that name, if the module's class has one; of code that
        asks for ``super()``, those of the base classes, too."""
        without: list[type] = []
        for cls in type(module).__mro__:
            if name not in vars(cls):
                without.append(cls)
                continue
            if cls.__module__.startswith("torch.") or cls is object:
                return
            self.reads += [Read(vars(nearer), name, None) for nearer in without]
            without = []
            self._class_attribute(name, cls)
            if name != "forward":
                self.reads.append(Read(module.__dict__, name, None))
            if not has_super:
                return

    def _class_attribute(self, name: str, cls: type) -> None:
        attribute = vars(cls)[name]
        self.reads.append(Read(vars(cls), name, attribute))
        if isinstance(attribute, property):
            attribute = attribute.fget
        if isinstance(attribute, staticmethod):
            attribute = attribute.__func__
        if isinstance(attribute, FunctionType):
            self.function(attribute)
        elif not _is_simple(attribute):
            raise ImpureError(f"reads {name}, a {type(attribute).__name__}")

    def _value(self, read: Read) -> None:
        value = read.value
        if isinstance(value, ModuleType):
            if value.__name__ not in TORCH_MODULES and value is not torch.nn:
                raise ImpureError(f"uses the module {value.__name__}")
        elif isinstance(value, FunctionType) and not _is_torchs(value):
            self.function(value)
        elif not (_is_torchs(value) or isinstance(value, nn.Module) or _is_simple(value)):
            raise ImpureError(f"reads {read.name}, a {type(value).__name__}")
        self.reads.append(read)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _defaults(function: FunctionType) -> list[object]:
    """The values of arguments that a call does not give."""
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _is_simple(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_simple, value))
    return isinstance(value, SIMPLE)


def _is_torchs(value: object) -> bool:
    """Whether a value is one of torch's functions that compute, or a method of a torch.nn class."""
    home = getattr(value, "__module__", None) or ""
    if not callable(value) or getattr(value, "__name__", "") in NOT_COMPUTING:
        return False
    if isinstance(value, BuiltinFunctionType):
        return home == "math" or home.startswith("torch") or hasattr(torch, value.__name__)
    return home in TORCH_MODULES or home.startswith(("torch.nn.modules.", "torch.distributions."))


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
