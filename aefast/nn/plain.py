"""Whether a model is plain: whether its parameters say all that calling its layers would do.

A fused loss reads the parameters and calls no layer. Hooks (pruning, weight normalization),
adapters in a layer's place, subclasses and sharded parameters change what a call does: it serves
plain layers alone.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from aefast.nn.sharded import only_gathers, unsharded_class
from aefast.torch_private import MODULE_HOOKS

Class = TypeVar("Class", bound=type[nn.Module])

# Each class by the names of its parameters. A tensor's subclass, as a sharded or quantized one is,
# is no plain parameter; under torch.func and in the forward of a sharded root they are tensors.
_CLASSES: dict[type, frozenset[str]] = {nn.Sequential: frozenset(), nn.ModuleList: frozenset()}
_TENSORS = (nn.Parameter, torch.Tensor, type(None))

# Each class's forward as it was defined: the class's attribute may be replaced later.
_FORWARDS: dict[type, Callable[..., object]] = {}

# The methods that the losses call.
METHODS = (
    *("encode", "decode", "preactivation", "compare", "penalty", "posterior", "elbo"),
    "log_likelihood",
)

# A module's attributes that hold its hooks.
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")

# Each class's methods of these names, as they were defined.
_METHODS: dict[type, dict[str, Callable[..., object]]] = {}


def known_by_its_parameters(*names: str) -> Callable[[Class], Class]:
    """A decorator of a module's class whose forward is a function of these parameters alone."""

    def note(cls: Class) -> Class:
        _CLASSES[cls] = frozenset(names)
        note_forwards(cls)
        _METHODS[cls] = {name: getattr(cls, name) for name in METHODS if hasattr(cls, name)}
        return cls

    return note


def note_forwards(*classes: type[nn.Module]) -> None:
    """Note the forwards of classes: a class whose forward is replaced is no longer known."""
    _FORWARDS.update((cls, cls.forward) for cls in classes)


note_forwards(nn.Sequential)


def is_plain(module: nn.Module) -> bool:
    """Whether nothing stands on a module, nor on those below it.

    Each is exactly of a class of this package (or an ``nn.Sequential``), without hooks of its own
    or of all modules, without parametrizations, with the ``forward`` of its class; its parameters
    are all there, and plain tensors. It takes less than 2 us a layer.

    >>> from torch.nn.utils import prune
    >>> from aefast.nn import Autoencoder
    >>> from aefast.nn.plain import is_plain
    >>> model = Autoencoder(64, 32)
    >>> is_plain(model)
    True
    >>> _ = prune.l1_unstructured(model.encoder[0], "weight", 0.5)
    >>> is_plain(model)
    False
    """
    return not global_hooks() and _is_bare(module)


def calls_only_its_own(module: nn.Module) -> bool:
    """Whether a module is plain as :func:`is_plain` says, but for hooks of torch's counters of
    FLOPs, which may watch all modules."""
    return _is_bare(module) and not any(map(_changes_calls, MODULE_HOOKS))


def calls_only_its_own_once_gathered(module: nn.Module) -> bool:
    """Whether a module with sharded parameters (FSDP2), or one below it, is what
    :func:`calls_only_its_own` says but for these, and for the hooks that gather them."""
    if any(map(_changes_calls, MODULE_HOOKS)):
        return False
    return all(map(_is_bare_once_gathered, module.modules()))


def _is_bare_once_gathered(module: nn.Module) -> bool:
    """The same of a module, and not of those below it."""
    cls = unsharded_class(type(module))
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return (
        module._parameters.keys() == _CLASSES.get(cls)
        and all(map(only_gathers, hooks))
        and not (module._backward_pre_hooks or module._backward_hooks)
        and "forward" not in module.__dict__
        and type(module).forward is _FORWARDS[cls]
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs hooks, its own or those of all modules."""
    return global_hooks() or own_hooks(module.__dict__)


def global_hooks() -> bool:
    """Whether there are global hooks, which run for every module."""
    return any(MODULE_HOOKS)


def _changes_calls(hooks: dict[int, Callable[..., object]]) -> bool:
    """Whether a global hook is not one of torch's own trackers, which only observe."""
    trackers = "torch.utils.module_tracker", "torch.utils.flop_counter"
    return any(getattr(hook, "__module__", None) not in trackers for hook in hooks.values())


def own_hooks(attributes: dict[str, Any]) -> bool:
    """Whether the module with these attributes has hooks of its own."""
    # One by one: a loop over HOOKS takes three times as long.
    return bool(
        attributes["_forward_pre_hooks"]
        or attributes["_forward_hooks"]
        or attributes["_backward_pre_hooks"]
        or attributes["_backward_hooks"]
    )


def has_own_methods(module: nn.Module) -> bool:
    """Whether a method that a loss calls is not this package's: it was replaced on the module, as
    in ``model.encode = mine``, or on its class, or a subclass overrides it."""
    attributes = module.__dict__
    cls = type(module)
    methods = _METHODS[cls] if cls in _METHODS else _methods_of(cls)
    for name, defined in methods.items():  # a generator would take twice as long
        if name in attributes or getattr(cls, name) is not defined:
            return True
    return "forward" in attributes


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module's forward is not the one that its class was defined with."""
    cls = type(module)
    if "forward" in module.__dict__:
        return True
    known = _FORWARDS.get(cls)
    return known is not None and cls.forward is not known


def _methods_of(cls: type) -> dict[str, Callable[..., object]]:
    """The methods of the nearest base class of this package."""
    return next((_METHODS[above] for above in cls.__mro__ if above in _METHODS), {})


def _is_bare(module: nn.Module) -> bool:
    # A module's dictionary: its attributes, looked up one by one, take three times as long.
    attributes = module.__dict__
    parameters = attributes["_parameters"]
    if parameters.keys() != _CLASSES.get(type(module)) or own_hooks(attributes):
        return False
    if has_own_forward(module):
        return False
    for parameter in parameters.values():
        if type(parameter) not in _TENSORS:
            return False
    # Of a model with an encoder and a decoder these two, which hold its layers between them.
    for child in attributes.get("_encoder_decoder") or attributes["_modules"].values():
        if child is not None and not _is_bare(child):
            return False
    return True
