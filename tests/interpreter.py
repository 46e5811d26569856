"""Makes Triton's interpreter faster, with the same results.

The interpreter patches the language at each call of a function by a kernel, reduces element by
element, builds a type for each result, and broadcasts blocks of equal shape. The functions replaced
here are Triton's internal ones; where a version lacks one, it is left as it is.
"""

import inspect
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np


def quicken() -> None:
    """Replace the interpreter's slow functions. Call it before the first kernel runs: later the
    language is patched, and its builtins cannot be listed."""
    from triton.runtime import interpreter

    if hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_builtin = _patching_builtins(interpreter)
        interpreter._patch_lang = _patching_once(interpreter)
    if hasattr(interpreter, "_get_np_dtype"):
        interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    if hasattr(interpreter.ReduceOps, "generic_reduce"):
        interpreter.ReduceOps.generic_reduce = _reduce
    core = interpreter.tl.core
    core.block_type.__init__ = _once_a_shape(core.block_type.__init__)
    core.tensor.__init__ = _once_a_type(core.tensor.__init__)
    semantic = type(interpreter.interpreter_semantic)
    if hasattr(semantic, "broadcast_impl_value"):
        semantic.broadcast_impl_value = _as_they_are(semantic.broadcast_impl_value)


def _patching_builtins(interpreter: ModuleType) -> Any:
    """A ``_patch_builtin`` that lists a module's members once."""
    is_builtin = interpreter.tl.core.is_builtin

    @cache
    def names(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    language = interpreter.tl
    for package in (language, language.core, language.math, language.tensor):
        names(package)

    def patch(package: Any, *rest: Any) -> None:
        for name in names(package):
            member = getattr(package, name)
            if is_builtin(member):
                interpreter._patch_attr(package, name, member, *rest)

    return patch


def _patching_once(interpreter: ModuleType) -> Any:
    """A ``_patch_lang`` that does not patch a language again that the launch has patched."""
    whole, is_builtin = interpreter._patch_lang, interpreter.tl.core.is_builtin
    languages = (interpreter.tl, interpreter.tl.core)

    @cache
    def languages_of(function: Any) -> list[Any]:
        values = function.__globals__.values()
        return [x for x in values if any(x is language for language in languages)]

    def patch(function: Any) -> Any:
        if any(is_builtin(x.load) or is_builtin(x.tensor.__add__) for x in languages_of(function)):
            return whole(function)
        return interpreter._LangPatchScope()

    return patch


def _by_name(find: Any) -> Any:
    """A ``_get_np_dtype`` with a cache: the original builds a table of all dtypes at each call."""
    dtypes: dict[str, Any] = {}

    def np_dtype(dtype: Any) -> Any:
        if dtype.name not in dtypes:
            dtypes[dtype.name] = find(dtype)
        return dtypes[dtype.name]

    return np_dtype


def _once_a_shape(whole: Any) -> Any:
    """A ``block_type.__init__`` where types of equal element and shape share their attributes."""
    descriptions: dict[Any, dict[str, Any]] = {}

    def describe(self: Any, element: Any, shape: Any) -> None:
        sizes = tuple(size if type(size) is int else size.value for size in shape)
        key = element.name, getattr(element, "address_space", None), sizes
        if key not in descriptions:
            whole(self, element, shape)
            descriptions[key] = self.__dict__
        self.__dict__ = descriptions[key]

    return describe


def _once_a_type(whole: Any) -> Any:
    """A ``tensor.__init__`` that computes what depends on the type once for each type."""

    def hold(self: Any, handle: Any, type: Any) -> None:
        held = type.__dict__.get("_of_a_tensor")
        if held is None:
            whole(self, handle, type)
            type.__dict__["_of_a_tensor"] = self.__dict__.copy()
        else:
            self.__dict__.update(held)
            self.handle, self.type = handle, type

    return hold


def _as_they_are(broadcast: Any) -> Any:
    """A ``broadcast_impl_value`` that returns blocks of equal shape as they are."""

    def make_alike(self: Any, left: Any, right: Any) -> Any:
        both = left.type.is_block() and right.type.is_block()
        if both and list(left.type.shape) == list(right.type.shape):
            return left, right
        return broadcast(self, left, right)

    return make_alike


def _reduce(self: Any, inputs: Any) -> list[Any]:
    """A ``generic_reduce`` that combines whole slices, in the same order for each element."""
    parts, axis = self.unravel(inputs, self.axis)

    def slices(index: int) -> Any:
        arrays = [np.take(part.handle.data, index, axis) for part in parts]
        return [self.to_tensor(x, part.dtype) for x, part in zip(arrays, parts, strict=True)]

    shape = parts[0].handle.data.shape
    reduced = slices(0)
    for index in range(1, shape[axis]):
        combined = self.combine_fn.fn(*reduced, *slices(index))
        reduced = combined if isinstance(combined, tuple) else [combined]
    results = []
    for result, whole in zip(reduced, inputs, strict=True):
        data = result.handle.data.reshape(shape[:axis] + shape[axis + 1 :])
        if self.keep_dims:
            every = tuple(range(whole.handle.data.ndim))
            data = np.expand_dims(data, axis if self.axis is not None else every)
        results.append(self.to_tensor(data, whole.dtype))
    return results
