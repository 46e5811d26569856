"""A model's planned step, kept as long as the model stays what it was planned from."""

from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from aefast import backend
from aefast.nn import unchanged
from aefast.nn.plain import HOOKS, METHODS
from aefast.nn.settings import Setting
from aefast.ops.shared import dispatch
from aefast.torch_private import MODULE_HOOKS, is_autocast_enabled_anywhere, saved_tensors_hooks

if TYPE_CHECKING:
    from aefast.nn.step_plan import PlannedMachine, PlannedStep

# The attributes of a module that a plan depends on, beside its hooks and methods; of the model also
# its settings, of which step_fields makes the plan's.
WATCHED = (
    "_parameters",
    "_buffers",
    "_modules",
    "_encoder_decoder",
    "_tied",
    "activation",
    "forward",
)

# What a call is asked beside: each answers with nothing where the kernels may serve.
QUESTIONS = (
    *dispatch.QUESTIONS,
    is_autocast_enabled_anywhere,
    backend.chosen,
    partial(saved_tensors_hooks, True),
)


class CachedStep:
    """A model's planned step, and what it was made from. Copies and pickles of it are empty.

    Whether it serves a loss is asked at each, so in C++: in Python it takes 30 us of a step of 250.
    """

    def __init__(self, step: "PlannedStep | PlannedMachine", model: nn.Module) -> None:
        self.step = step
        self.draws = step.draws
        self.model = model
        reads_tensors = backend.reads_tensors()
        self.kernels: Any = backend.extension() if reads_tensors else unchanged
        # A block's backend is asked at each loss, that of the environment once.
        self.has_cpp = reads_tensors and backend.environment_choice() in (None, "cpp")
        if self.has_cpp:
            self.call_of = step.call_of()
        modules = list(_all_modules(model))
        self.state: tuple[Any, ...] = (
            _attributes(modules),
            _members(modules),
            _classes([*modules, *step.parameters]),
            _functions(modules),
            (tuple(step.parameters), tuple(map(Tensor.size, step.parameters))),
        )
        self.rows: tuple[Any, ...] = (
            step.width,
            step.most_rows,
            step.unit_interval_reason is not None,
            (*QUESTIONS, *step.questions),
        )

    def __reduce__(self) -> Any:
        return type(None), ()

    def is_current(self, model: nn.Module) -> bool:
        """Whether the model is the same, still plain, and has the same parameters and settings."""
        return self.model is model and bool(self.kernels.is_unchanged(*self.state))

    def serves(self, model: nn.Module, x: Tensor) -> bool:
        """Whether it is current, and the C++ kernels serve this x in this call.

        False where that takes a second look, too: at a view, a subclass, or many rows.
        """
        if not self.has_cpp or self.model is not model:
            return False
        return bool(self.kernels.serves(x, *self.rows, *self.state))


def _attributes(modules: list[nn.Module]) -> tuple[tuple[Any, ...], ...]:
    """Dictionaries, names in them, and the values there."""
    held = [module.__dict__ for module in modules]
    model = modules[0]
    settings = [
        name for name in dir(type(model)) if isinstance(getattr(type(model), name, None), Setting)
    ]
    watched = [
        *product(held, (*WATCHED, *HOOKS)),
        *product(held[:1], (*METHODS, *settings, "training")),
    ]
    values = [(each, name, each.get(name)) for each, name in watched]
    return tuple(zip(*values, dispatch.FORWARD_MODE, strict=True))


def _members(modules: list[nn.Module]) -> tuple[tuple[Any, ...], ...]:
    """Dictionaries, and all the values in each."""
    names = "_parameters", "_buffers", "_modules", *HOOKS
    held = [module.__dict__[name] for module in modules for name in names]
    # The encoder and the decoder hold the model's own layers, under other names.
    dicts = *(each for each in held if isinstance(each, dict)), *MODULE_HOOKS
    return dicts, tuple(tuple(each.values()) for each in dicts)


def _classes(objects: list[Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple(objects), tuple(map(type, objects))


def _functions(modules: list[nn.Module]) -> tuple[tuple[Any, ...], ...]:
    """Classes, names of functions in them, and these."""
    classes = list(map(type, modules))
    methods = [
        *((cls, "forward") for cls in dict.fromkeys(classes)),
        *((classes[0], name) for name in (*METHODS, "step_fields") if hasattr(classes[0], name)),
    ]
    owners, names = zip(*methods, strict=True)
    return owners, names, tuple(map(getattr, owners, names))


def _all_modules(module: nn.Module) -> Iterable[nn.Module]:
    yield module
    for child in module.__dict__.get("_encoder_decoder") or module._modules.values():
        if child is not None:
            yield from _all_modules(child)
