"""A model's settings: numbers and choices that its loss reads, and that may change in training."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack, get_args, get_origin

from torch import nn

from aefast.ops.shared import checks

# Takes a model, a value and the setting's name. Returns the value as it is stored, or raises.
Check = Callable[[Any, Any, str], Any]


class Setting(NamedTuple):
    """What an attribute takes; stands in the model's class."""

    check: Check


class HasSettings(nn.Module):
    """A module whose settings are checked whenever they are set, in the constructor or later: so a
    loss that reads one need not look at it again.

    >>> from aefast.nn import ContractiveAutoencoder
    >>> model = ContractiveAutoencoder(64, 32)
    >>> model.contraction = -1
    Traceback (most recent call last):
    ValueError: contraction is -1; it takes a finite number, at least 0
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            constructor: Any = cls.__init__
            constructor.__signature__ = _whole_signature(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        setting = getattr(type(self), name, None)
        if isinstance(setting, Setting):
            value = setting.check(self, value, name)
        super().__setattr__(name, value)


def _whole_signature(cls: type[nn.Module]) -> inspect.Signature:
    """The signature of a class's constructor, for ``help`` and the pages. In the place of
    ``**options: Unpack[Options]`` stand the base class's arguments of these names."""
    own = inspect.signature(cls.__init__)
    *named, last = own.parameters.values()
    if last.kind is not inspect.Parameter.VAR_KEYWORD or get_origin(last.annotation) is not Unpack:
        return own
    names = get_args(last.annotation)[0].__annotations__
    inherited = inspect.signature(cls.__mro__[1].__init__).parameters.values()  # type: ignore[misc]
    more = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inherited
        if parameter.name in names and parameter.name not in own.parameters
    ]
    return own.replace(parameters=[*named, *more])


def setting(check: Check) -> Any:
    """A setting with a check of its own."""
    return Setting(check)


def number(low: float, high: float = checks.LARGEST) -> Any:
    """A finite number in [low, high]."""
    return Setting(lambda model, value, name: checks.check_number(value, name, low, high))


def positive() -> Any:
    """A finite number above 0."""
    return Setting(lambda model, value, name: checks.check_positive(value, name))


def inside_unit_interval(model: nn.Module, value: object, name: str) -> float:
    """A check: a number in (0, 1)."""
    return checks.check_fraction(value, name)


def integer(low: int, limit: int = 2**31) -> Any:
    """An integer in [low, limit)."""
    return Setting(lambda model, value, name: checks.check_integer(value, name, limit, low))


def choice(choices: tuple[str, ...]) -> Any:
    """One of these."""

    def check(model: nn.Module, value: Any, name: str) -> str:
        checks.check_choice(value, name, choices)
        return str(value)

    return Setting(check)


def fixed_choice(choices: tuple[str, ...]) -> Any:
    """One of these; the layers are made for it, so that it does not change any more."""

    def check(model: nn.Module, value: str, name: str) -> str:
        checks.check_choice(value, name, choices)
        before = model.__dict__.get(name, value)
        if value != before:
            raise ValueError(f"{name} is {value!r}; the model was made with {before!r}")
        return value

    return Setting(check)
