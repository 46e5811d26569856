"""``patch``: replaces slow functions of other libraries by these kernels, in unchanged programs.

Each library has a folder here, with the functions that are replaced.
"""

import importlib
import importlib.util
import threading
import warnings
from dataclasses import dataclass, field
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from aefast.deprecation import OldAttribute, renamed_global
from aefast.patching.replacement import (
    Calls,
    Installed,
    Replacement,
    UnknownVersionError,
    install,
    remove,
)
from aefast.patching.versions import check_trial, untested_version

__all__ = ["Patch", "PatchStatus", "UnknownVersionError", "patch", "patched", "unpatch"]

# The libraries, by the names under which Python imports them and pip installs them.
PEERS = {"sklearn": "scikit-learn", "rbms": "rbms", "pyod": "pyod"}

_installed: dict[str, list[Installed]] = {}
_lock = threading.RLock()

if not TYPE_CHECKING:  # to a type checker any name would be one

    def __getattr__(name: str) -> object:
        return renamed_global(__name__, name, {"Patched": "PatchStatus"})


@dataclass(frozen=True)
class PatchStatus:
    """The state of a class or function of another library.

    Attributes:
        served: whether calls run on aefast where they can.
        detail: the methods that do; or the reason why none does.
        calls: the number of calls that aefast's kernels computed.
        original_calls: the number of calls that the library's own code computed, by reason.
    """

    served: bool
    detail: str
    calls: int = 0
    original_calls: dict[str, int] = field(default_factory=dict)

    why = OldAttribute("detail")


class Patch:
    """The packages that a call of :func:`patch` patched. As a context manager, it undoes that at
    the end of the block."""

    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def __enter__(self) -> "Patch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        still_patched = [package for package in self.packages if package in _installed]
        if still_patched:
            unpatch(*still_patched)

    def __repr__(self) -> str:
        return f"<aefast.patch of {', '.join(self.packages) or 'nothing more'}>"


def patch(*packages: str) -> Patch:
    """Let other libraries' models run on aefast, in an unchanged program.

    Methods are replaced on the libraries' own classes. So classes that were imported or subclassed
    before, and models that were fitted before, have them too. A class keeps its name, signature,
    parameters and attributes; its models can be pickled, loaded and cloned with or without the
    patch. Calls that the kernels do not support (a sparse matrix, another solver) run the library's
    own code; :func:`patched` counts both. Deterministic results equal the library's up to rounding.
    Random results have the same distribution, from another stream of random numbers.

    A patch holds for this process. A worker process that imports the library is not patched.

    Args:
        packages: ``"sklearn"``, ``"rbms"`` or ``"pyod"``. One that is patched already stays so.

    Returns:
        a context manager: ``with aefast.patch("sklearn"):`` undoes the patch at its end. Without
        ``with`` the patch stays until :func:`unpatch`.

    Raises:
        ValueError: a package is none of these.
        ModuleNotFoundError: a package is not installed.
        aefast.patching.UnknownVersionError: a package's version has other methods than those that
            are known; or it is not among those that were tested, and gave other results on small
            data than unpatched. No package is patched then.

    Warns:
        UserWarning: a version that was not tested gave the same results, and is patched.

    >>> import aefast
    >>> from sklearn.decomposition import PCA
    >>> with aefast.patch("sklearn"):
    ...     model = PCA(n_components=1).fit([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
    >>> model.transform([[3.0, 7.0]]).round(2)
    array([[4.47]])
    """
    _check_names(packages)
    if not packages:
        raise ValueError(f"patch takes one package or more: {_choice()}")
    with _lock:
        new = [name for name in dict.fromkeys(packages) if name not in _installed]
        # All are checked before the first one is patched.
        replacements_by_package = {name: _replacements(name) for name in new}
        untested = _tried(replacements_by_package)
        installed = install(
            [one for replacements in replacements_by_package.values() for one in replacements]
        )
        for name, replacements in replacements_by_package.items():
            _installed[name] = [one for one in installed if one.replacement in replacements]
    for line in untested:
        warnings.warn(f"aefast: {line}; a trial of it gave the same results", stacklevel=2)
    return Patch(new)


def unpatch(*packages: str) -> None:
    """Undo :func:`patch`: the libraries' classes get their own methods back.

    Args:
        packages: the packages to restore; without any, all that are patched.

    Raises:
        ValueError: ``patch`` does not take a package, or it is not patched.
        RuntimeError: a method was replaced by other code since. Nothing is undone then.

    >>> import aefast
    >>> _ = aefast.patch("sklearn")
    >>> aefast.unpatch("sklearn")
    >>> aefast.patched()["sklearn.decomposition.PCA"].detail
    'sklearn is not patched'
    """
    _check_names(packages)
    with _lock:
        names = list(dict.fromkeys(packages)) or list(_installed)
        for name in names:
            if name not in _installed:
                raise ValueError(f"{name} is not patched; aefast.patched() says what is")
        installed = [function for name in names for function in _installed[name]]
        for function in installed:
            if not function.is_in_place:
                replacement = function.replacement
                owner, name = replacement.owner.__name__, replacement.name
                raise RuntimeError(
                    f"{owner}.{name} was replaced by another since aefast.patch; undo that first"
                )
        remove(installed)
        for name in names:
            del _installed[name]


def patched() -> dict[str, PatchStatus]:
    """Which classes and functions run on aefast, by name, with the calls so far.

    >>> import aefast
    >>> with aefast.patch("sklearn"):
    ...     state = aefast.patched()["sklearn.decomposition.PCA"]
    >>> state.served, state.calls
    (True, 0)
    """
    return {
        public_name: _state(package, public_name)
        for package in PEERS
        for public_name in _peer(package).PUBLIC_NAMES
    }


def _state(package: str, public_name: str) -> PatchStatus:
    if package not in _installed:
        missing = importlib.util.find_spec(package) is None
        return PatchStatus(False, f"{package} is not {'installed' if missing else 'patched'}")
    calls = Calls()
    for function in _installed[package]:
        replacement = function.replacement
        if public_name in (replacement.public_name, *replacement.callers):
            calls.served += function.calls.served
            calls.original.update(function.calls.original)
    return PatchStatus(
        True, _peer(package).PUBLIC_NAMES[public_name], calls.served, dict(calls.original)
    )


def _check_names(packages: tuple[str, ...]) -> None:
    for name in packages:
        if name not in tuple(PEERS):  # a list is no key of a dict
            raise ValueError(f"package is {name!r}; it takes {_choice()}")


def _choice() -> str:
    *names, last = map(repr, PEERS)
    return f"{', '.join(names)} or {last}"


def _replacements(package: str) -> list[Replacement]:
    """The replacements of an installed package, checked against its version.

    Raises:
        ModuleNotFoundError: the package is not installed.
        UnknownVersionError: its version has other functions than those that are known.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f"{package} is not installed: pip install {PEERS[package]}", name=package
        )
    try:
        replacements: list[Replacement] = _peer(package).replacements()
    except (ImportError, AttributeError) as error:
        raise UnknownVersionError(
            f"this version of {package} lacks a name that aefast.patch replaces ({error}); "
            "nothing was patched"
        ) from error
    for replacement in replacements:
        replacement.check(package)
    return replacements


def _tried(replacements_by_package: dict[str, list[Replacement]]) -> list[str]:
    """A line for each package of a version that was not tested. It has passed a trial.

    Raises:
        UnknownVersionError: one has not.
    """
    lines = []
    for name, replacements in replacements_by_package.items():
        untested = untested_version(PEERS[name], _peer(name).VERSIONS)
        if untested is not None:
            trial = importlib.import_module(f"aefast.patching.{name}.trial").trial
            check_trial(untested, trial, replacements)
            lines.append(untested)
    return lines


def _peer(package: str) -> ModuleType:
    return importlib.import_module(f"aefast.patching.{package}")
