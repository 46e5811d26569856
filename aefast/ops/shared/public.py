"""The decorator of a public function: torch function overrides, and a profiler range.

torch.fx's proxies, function modes and tensor subclasses override a function by its name. Tracing of
the operators below the function is another thing: ``is_traced`` in dispatch.py.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

from aefast.torch_private import profiler

P = ParamSpec("P")
R = TypeVar("R")
Class = TypeVar("Class", bound=type[tuple[Any, ...]])


def public(function: Callable[P, R]) -> Callable[P, R]:
    """The function of aefast.functional: overridable as torch's own, a range under a profiler."""
    name = f"aefast::{function.__name__}"

    def call(*arguments: P.args, **keywords: P.kwargs) -> Any:
        operands = (*arguments, *keywords.values()) if keywords else arguments
        if has_torch_function(operands):
            return handle_torch_function(call, operands, *arguments, **keywords)
        if not profiler._is_profiler_enabled:
            return function(*arguments, **keywords)
        with profiler.record_function(name):
            return function(*arguments, **keywords)

    # torch.compile counts how often it compiles a code object, and stops at the eighth: what is
    # compiled of one function must not count for another.
    call.__code__ = call.__code__.replace(co_name=function.__name__)
    functools.update_wrapper(call, function)
    call.__module__ = "aefast.functional"  # where users import it from; its pickles name that
    return call


def result(cls: Class) -> Class:
    """A named tuple that a function of aefast.functional returns.

    Where it holds tensors of a subclass, torch rebuilds it as ``cls(iterator)``, which torch's own
    named tuples take.
    """
    of_fields = cls.__new__

    @functools.wraps(of_fields)  # its signature names the fields
    def new(cls: Any, *fields: Any, **named: Any) -> Any:
        if len(fields) == 1 and isinstance(fields[0], Iterator):
            fields = tuple(fields[0])
        return of_fields(cls, *fields, **named)

    cls.__new__ = new  # type: ignore[method-assign]
    return cls
