"""Old names, which warn for one version."""

import os
import sys
import warnings
from pathlib import Path
from typing import TypeVar

PACKAGE = f"{Path(__file__).parent}{os.sep}"

Value = TypeVar("Value")


def warn_of_old_name(old: str, new: str) -> None:
    """One DeprecationWarning, at the line outside this package that used the name."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{old} is an old name and will be removed: use {new}", DeprecationWarning, level)


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
