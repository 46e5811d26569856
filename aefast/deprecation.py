"""Old names, which warn for one version."""

import sys
import warnings
from collections.abc import Mapping
from typing import TypeVar

from aefast.messages import PACKAGE, level_outside

Value = TypeVar("Value")


def warn_of_old_name(old: str, new: str) -> None:
    """One DeprecationWarning, at the line outside this package that used the name."""
    message = f"{old} is an old name and will be removed: use {new}"
    warnings.warn(message, DeprecationWarning, level_outside(PACKAGE))


def renamed_argument(
    old: str, old_value: Value | None, new: str, new_value: Value, default: Value
) -> Value:
    """The value of an argument that has another name now; an old one that is None was not given.

    Warns:
        DeprecationWarning: the old name was given.

    Raises:
        TypeError: both were.
    """
    if old_value is None:
        return new_value
    if new_value != default:
        raise TypeError(f"{old} and {new} are both given; {old} is the old name of {new}")
    warn_of_old_name(f"{old}=", f"{new}=")
    return old_value


class OldAttribute:
    """The old name of an instance's attribute, which warns: ``why = OldAttribute("detail")``."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, instance: object, owner: type) -> object:
        if instance is None:
            return self
        warn_of_old_name(self.old, self.new)
        return getattr(instance, self.new)


def renamed_global(module: str, old: str, new_names: Mapping[str, str]) -> object:
    """For a module's ``__getattr__``: a global that has another name now.

    Warns:
        DeprecationWarning: the old name was read.

    Raises:
        AttributeError: ``old`` is none of the old names.
    """
    if old not in new_names:
        raise AttributeError(f"module {module!r} has no attribute {old!r}")
    warn_of_old_name(f"{module}.{old}", f"{module}.{new_names[old]}")
    return getattr(sys.modules[module], new_names[old])
