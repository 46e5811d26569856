"""The ops, a folder each, found by looking; ``shared`` holds what several of them need.

A folder's ``__init__.py`` names in ``__all__`` the functions that :mod:`aefast.functional` offers.
"""

import importlib
import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, get_args


def names() -> list[str]:
    """The folders of the ops, in alphabetical order."""
    folders = (module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return sorted(name for name in folders if name != "shared")


def names_with(module: str) -> list[str]:
    """The ops whose folder has a module of this name: "triton", "selftest"."""
    return [name for name in names() if find_spec(f"{__name__}.{name}.{module}") is not None]


def public_functions() -> dict[str, Callable[..., Any]]:
    """Every op's public functions, by name."""
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names()]
    return {name: getattr(module, name) for module in modules for name in module.__all__}


def result_types(functions: dict[str, Callable[..., Any]]) -> dict[str, type]:
    """The named tuples and other classes of this package that functions return, by name."""
    types: dict[str, type] = {}
    for function in functions.values():
        returned = function.__annotations__.get("return")
        for kind in (returned, *get_args(returned)):
            if isinstance(kind, type) and kind.__module__.startswith(f"{__name__}."):
                types[kind.__name__] = kind
    return types
