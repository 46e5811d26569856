"""A function of a peer library, and what runs in its place.

It is the attribute of a class or module that is replaced, never the class: whoever imported the
class before, subclassed it or holds an instance of it has the new function too, and names,
signatures, parameters and pickles stay what they are.
"""

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any


class StepAside(Exception):
    """Raised by what runs in a function's place, before it has drawn or changed anything that
    matters: the original shall run. The message says why."""


class UnknownVersionError(RuntimeError):
    """A peer library is of a version that this package does not know."""


def check_version(package: str, known: tuple[str, ...]) -> None:
    """Whether an installed package is of one of these series, such as "0.5".

    Raises:
        UnknownVersionError: it is of none.
    """
    version = metadata.version(package)
    if not any(version == series or version.startswith(f"{series}.") for series in known):
        raise UnknownVersionError(
            f"{package} is {version}; aefast.patch takes {' and '.join(known)}; nothing was patched"
        )


@dataclass
class Calls:
    """How many calls of a function were served, and how many the original took, by reason."""

    served: int = 0
    original: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count(self, reason: str | None) -> None:
        with self._lock:
            if reason is None:
                self.served += 1
            else:
                self.original[reason] += 1


@dataclass(frozen=True, eq=False)
class Replacement:
    """What runs in place of one function.

    Args:
        public_name: under which users know the class or function that gets faster.
        owner: the class or module that has the function.
        name: of the function there.
        parameters: the names of its parameters, in their order, by which its version is known.
        serve: takes the same arguments; raises :class:`StepAside` for those it does not serve.
        relies_on: methods that the original calls. A subclass with others of its own gets the
            original.
    """

    public_name: str
    owner: Any
    name: str
    parameters: tuple[str, ...]
    serve: Callable[..., Any]
    relies_on: tuple[str, ...] = ()

    def check(self, package: str) -> None:
        """Whether the function is there, and takes what it took when this was written."""
        function = f"{package}'s {self.owner.__name__}.{self.name}"
        original = inspect.getattr_static(self.owner, self.name, None)
        if not inspect.isfunction(original):
            raise UnknownVersionError(
                f"{function} is not there in this version; nothing was patched"
            )
        parameters = tuple(inspect.signature(original).parameters)
        if parameters != self.parameters:
            raise UnknownVersionError(
                f"{function} takes ({', '.join(parameters)}) in this version, and not "
                f"({', '.join(self.parameters)}) as in those that are known; nothing was patched"
            )
        for name in self.relies_on:
            if not hasattr(self.owner, name):
                raise UnknownVersionError(
                    f"{package}'s {self.owner.__name__}.{name} is not there in this version; "
                    "nothing was patched"
                )


class Installed:
    """A replacement that is in place.

    Attributes:
        calls: since it is.
    """

    def __init__(self, replacement: Replacement) -> None:
        self.replacement = replacement
        self.calls = Calls()
        owner, name = replacement.owner, replacement.name
        self.is_own = name in vars(owner)  # else it is inherited, and goes when this goes
        self.original = getattr(owner, name)
        self.function = self._function()
        setattr(owner, name, self.function)

    @property
    def is_in_place(self) -> bool:
        return vars(self.replacement.owner).get(self.replacement.name) is self.function

    def remove(self) -> None:
        """The owner as it was."""
        if self.is_own:
            setattr(self.replacement.owner, self.replacement.name, self.original)
        else:
            delattr(self.replacement.owner, self.replacement.name)

    def _function(self) -> Callable[..., Any]:
        original, serve, calls = self.original, self.replacement.serve, self.calls

        @functools.wraps(original)
        def function(*arguments: Any, **options: Any) -> Any:
            reason = self._changed_method(arguments)
            if reason is None:
                try:
                    result = serve(*arguments, **options)
                except StepAside as aside:
                    reason = str(aside)
                else:
                    calls.count(None)
                    return result
            calls.count(reason)
            return original(*arguments, **options)

        return function

    def _changed_method(self, arguments: tuple[Any, ...]) -> str | None:
        """That the instance has methods of its own where the original would call them."""
        owner = self.replacement.owner
        if not inspect.isclass(owner) or not arguments or type(arguments[0]) is owner:
            return None
        for name in self.replacement.relies_on:
            if getattr(type(arguments[0]), name, None) is not getattr(owner, name):
                return f"a subclass with a {name} of its own"
        return None
