"""Whether a model is what it was: csrc/step/kept_step.cpp in Python."""

from itertools import chain
from operator import eq, is_
from typing import Any

from torch import Tensor

from aefast.step.parameters import unsuitable

Objects = tuple[Any, ...]


def is_unchanged(
    attributes: tuple[Objects, Objects, Objects],
    members: tuple[Objects, Objects],
    classes: tuple[Objects, Objects],
    functions: tuple[Objects, Objects, Objects],
    tensors: tuple[Objects, Objects],
) -> bool:
    """Each argument holds tuples of one length: dictionaries, names and the values there;
    dictionaries and all of their values; objects and their classes; classes, names and functions;
    tensors, which the kernels read, and their shapes."""
    dicts, names, values = attributes
    holders, held = members
    objects, types = classes
    owners, methods, defined = functions
    parameters, shapes = tensors
    return (
        all(map(_is_same, map(dict.get, dicts, names), values))
        and all(map(eq, map(len, holders), map(len, held)))
        and all(map(is_, chain.from_iterable(map(dict.values, holders)), chain.from_iterable(held)))
        and all(map(is_, map(type, objects), types))
        and all(map(is_, map(getattr, owners, methods), defined))
        and all(map(eq, map(Tensor.size, parameters), shapes))
        and unsuitable(parameters) is None
    )


def _is_same(found: object, before: object) -> bool:
    return found is before or (type(found) is float is type(before) and found == before)
