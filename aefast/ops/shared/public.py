"""The decorator of a public function: torch function overrides, and a profiler range.

torch.fx's proxies, function modes and tensor subclasses override a function by its name. Tracing of
the operators below the function is another thing: ``is_traced`` in dispatch.py.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

from aefast.torch_private import profiler

P = ParamSpec("P")
R = TypeVar("R")


def public(function: Callable[P, R]) -> Callable[P, R]:
    """The function of aefast.functional: overridable as torch's own, a range under a profiler."""
    name = f"aefast::{function.__name__}"

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> Any:
        operands = (*arguments, *keywords.values()) if keywords else arguments
        if has_torch_function(operands):
            return handle_torch_function(call, operands, *arguments, **keywords)
        if not profiler._is_profiler_enabled:
            return function(*arguments, **keywords)
        with profiler.record_function(name):
            return function(*arguments, **keywords)

    call.__module__ = "aefast.functional"  # where users import it from; its pickles name that
    return call
