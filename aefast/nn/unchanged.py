"""Whether dictionaries hold what they held: csrc/bindings/unchanged.cpp in Python."""

from collections.abc import Sequence
from itertools import chain
from operator import eq, is_
from typing import Any


def holds_under_names(
    dicts: Sequence[dict[str, Any]], names: Sequence[str], values: Sequence[Any]
) -> bool:
    """Whether each dictionary holds this very object under its name; None for nothing."""
    return all(map(is_, map(dict.get, dicts, names), values))


def holds_only(dicts: Sequence[dict[Any, Any]], values: Sequence[Sequence[Any]]) -> bool:
    """Whether each dictionary's values are these very objects, and no others."""
    if not all(map(eq, map(len, dicts), map(len, values))):
        return False
    return all(map(is_, chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(values)))
