"""A model's planned step, kept as long as the model stays what it was planned from."""

from collections.abc import Iterable
from itertools import product, starmap
from operator import is_
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from aefast import backend
from aefast.nn import unchanged
from aefast.nn.plain import HOOKS, METHODS
from aefast.torch_private import MODULE_HOOKS

if TYPE_CHECKING:
    from aefast.nn.step_plan import PlannedStep

# The attributes of a module that a plan depends on, if it has them, beside hooks and methods.
WATCHED = ("_parameters", "_modules", "_encoder_decoder", "_tied", "activation")


class CachedStep:
    """A model's planned step, and what it was made from. Copies and pickles of it are empty.

    Whether the model is still the same is asked at each loss, so in C++ where that is: in Python it
    takes three times as long.
    """

    def __init__(self, step: "PlannedStep", fields: dict[str, Any], model: nn.Module) -> None:
        modules = list(_all_modules(model))
        attributes = [module.__dict__ for module in modules]
        self.unchanged: Any = unchanged if backend.cpu_isa() == "none" else backend.extension()
        self.step = step
        self.fields = fields
        self.model = model
        self.modules = modules
        self.classes = list(map(type, modules))
        self.methods = [
            *((cls, "forward") for cls in dict.fromkeys(self.classes)),
            *((type(model), name) for name in METHODS if hasattr(type(model), name)),
        ]
        self.functions = [getattr(cls, name) for cls, name in self.methods]
        watched = [
            *((held, name) for held in attributes for name in WATCHED if name in held),
            *product(attributes, ("forward",)),
            *product(attributes[:1], METHODS),
        ]
        dicts, names = zip(*watched, strict=True)
        self.attributes = dicts, names, tuple(map(dict.get, dicts, names))
        # The encoder and the decoder hold the model's own layers, under other names.
        members = [held[name] for held in attributes for name in ("_parameters", "_modules")]
        dicts = tuple(held for held in members if isinstance(held, dict))
        self.members = dicts, tuple(tuple(held.values()) for held in dicts)
        self.hooks = tuple(zip(*product(attributes, HOOKS), strict=True))
        self.parameters = [
            value for held in self.members[1] for value in held if isinstance(value, Tensor)
        ]
        self.shapes = list(map(Tensor.size, self.parameters))

    def __reduce__(self) -> Any:
        return type(None), ()

    def is_current(self, model: nn.Module, fields: dict[str, Any]) -> bool:
        """Whether the model is the same, still plain, and has the same parameters."""
        return (
            self.model is model
            and fields == self.fields
            and self.unchanged.holds_under_names(*self.attributes)
            and self.unchanged.holds_only(*self.members)
            and not any(map(dict.get, *self.hooks))
            and not any(MODULE_HOOKS)
            and all(map(is_, map(type, self.modules), self.classes))
            and all(map(is_, starmap(getattr, self.methods), self.functions))
            and list(map(Tensor.size, self.parameters)) == self.shapes
        )


def _all_modules(module: nn.Module) -> Iterable[nn.Module]:
    yield module
    for child in module.__dict__.get("_encoder_decoder") or module._modules.values():
        if child is not None:
            yield from _all_modules(child)
