"""Replaces a function of another library, and counts the calls that fall back to the original.

An attribute of a class or module is replaced, never the class itself. So code that imported or
subclassed the class before, or holds an instance, gets the new function, too. Names, signatures,
parameters and pickles do not change.
"""

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType


class UnsupportedCall(Exception):
    """Raised by a replacement to have the original run instead; the message says why.

    It is raised before random numbers are drawn or anything is changed, or after that was undone.
    """


class UnknownVersionError(RuntimeError):
    """A peer library is of a version that this package does not know."""


@dataclass
class Calls:
    """The number of calls that a replacement computed, and that the original did, by reason."""

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
    """A function of another library and the function that replaces it.

    Args:
        public_name: the name by which users know the class or function that gets faster.
        owner: the class or module that has the function.
        name: the function's name there.
        parameters: the names of its parameters, in order. A version where they differ is unknown.
        serve: the replacement. It takes the same arguments, and raises :class:`UnsupportedCall` for
            those that it does not support.
        relies_on: methods that the original calls. For a subclass that overrides one of them the
            original runs.
        callers: the public names of what gets faster because it calls the function.
    """

    public_name: str
    owner: type | ModuleType
    name: str
    parameters: tuple[str, ...]
    serve: Callable[..., object]
    relies_on: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()

    def check(self, package: str) -> None:
        """Check that the function exists and has the parameters that are known.

        Raises:
            UnknownVersionError: it does not.
        """
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


def install(replacements: list[Replacement]) -> list["Installed"]:
    """Put all of these in effect; if one raises an error, none."""
    installed: list[Installed] = []
    try:
        for replacement in replacements:
            installed.append(Installed(replacement))
    except BaseException:
        remove(installed)
        raise
    return installed


def remove(installed: list["Installed"]) -> None:
    """Take replacements back, in the other order than they were put in effect."""
    for function in reversed(installed):
        function.remove()


class Installed:
    """A replacement in effect.

    Attributes:
        calls: the calls since it took effect.
    """

    def __init__(self, replacement: Replacement) -> None:
        self.replacement = replacement
        self.calls = Calls()
        owner, name = replacement.owner, replacement.name
        self.is_own = name in vars(owner)  # else the original is inherited
        self.original = getattr(owner, name)
        self.function = self._function()
        setattr(owner, name, self.function)

    @property
    def is_in_place(self) -> bool:
        return vars(self.replacement.owner).get(self.replacement.name) is self.function

    def remove(self) -> None:
        """Give the owner its original function back."""
        if self.is_own:
            setattr(self.replacement.owner, self.replacement.name, self.original)
        else:
            delattr(self.replacement.owner, self.replacement.name)

    def _function(self) -> Callable[..., object]:
        original, serve, calls = self.original, self.replacement.serve, self.calls

        @functools.wraps(original)
        def function(*arguments: object, **options: object) -> object:
            reason = self._changed_method(arguments)
            if reason is None:
                try:
                    result = serve(*arguments, **options)
                except UnsupportedCall as aside:
                    reason = str(aside)
                else:
                    calls.count(None)
                    return result
            calls.count(reason)
            return original(*arguments, **options)

        return function

    def _changed_method(self, arguments: tuple[object, ...]) -> str | None:
        """The reason why a subclass's instance gets the original: a method that it overrides."""
        owner = self.replacement.owner
        if not inspect.isclass(owner) or not arguments or type(arguments[0]) is owner:
            return None
        for name in self.replacement.relies_on:
            if getattr(type(arguments[0]), name, None) is not getattr(owner, name):
                return f"a subclass with a {name} of its own"
        return None
