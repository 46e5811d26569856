"""Other libraries' models on these kernels, in programs that stay as they are.

A folder a library, with the functions that it replaces.
"""

import importlib
import importlib.util
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aefast.patching.replacement import Calls, Installed, Replacement, UnknownVersionError

__all__ = ["Patch", "Patched", "UnknownVersionError", "patch", "patched", "unpatch"]

# A library's name in Python and in the package index.
PEERS = {"sklearn": "scikit-learn", "rbms": "rbms", "pyod": "pyod"}

_installed: dict[str, list[Installed]] = {}
_lock = threading.RLock()


@dataclass(frozen=True)
class Patched:
    """What a class or function of another library runs on.

    Attributes:
        served: whether calls of it run on aefast where they can.
        why: which methods do; or why none does.
        calls: so many were served.
        original_calls: so many the library's own code took, by reason.
    """

    served: bool
    why: str
    calls: int = 0
    original_calls: dict[str, int] = field(default_factory=dict)


class Patch:
    """What a call of :func:`patch` put in place: as a context manager, it is undone at the end."""

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
        still = [package for package in self.packages if package in _installed]
        if still:
            unpatch(*still)

    def __repr__(self) -> str:
        return f"<aefast.patch of {', '.join(self.packages) or 'nothing more'}>"


def patch(*packages: str) -> Patch:
    """Let other libraries' models run on aefast, in a program that stays as it is.

    Methods are replaced on the libraries' own classes, so that all that was imported, subclassed
    or fitted before has them too, and no import comes too late. A class keeps its name, signature,
    parameters and attributes; its models are pickled, loaded and cloned with and without the patch
    alike. What a call asks for and is not served (a sparse matrix, another solver) the library's
    own code computes: :func:`patched` counts both. A deterministic result is the library's to
    rounding; a random one has its distribution, from another stream of random numbers.

    It holds for this process: a worker process that imports the library anew has it unpatched.

    Args:
        packages: ``"sklearn"``, ``"rbms"`` or ``"pyod"``. One that is patched already stays so.

    Returns:
        a context manager: ``with aefast.patch("sklearn"):`` takes back at its end what the call
        patched. It need not be used as one.

    Raises:
        ValueError: a package is none of these.
        ModuleNotFoundError: a package is not installed.
        aefast.patching.UnknownVersionError: a package's version has other methods than those that
            are known. Nothing is patched then, of no package.

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
        replacements_by_package = {
            name: _replacements(name) for name in new
        }  # all are looked at before any is done
        for name, replacements in replacements_by_package.items():
            _installed[name] = [Installed(replacement) for replacement in replacements]
    return Patch(new)


def unpatch(*packages: str) -> None:
    """Undo :func:`patch`: the libraries' classes are what they were.

    Args:
        packages: which; without any, all that are patched.

    Raises:
        ValueError: a package is none that ``patch`` takes, or is not patched.
        RuntimeError: another has replaced a method since; nothing is undone then.

    >>> import aefast
    >>> _ = aefast.patch("sklearn")
    >>> aefast.unpatch("sklearn")
    >>> aefast.patched()["sklearn.decomposition.PCA"].why
    'sklearn is not patched'
    """
    _check_names(packages)
    with _lock:
        names = list(dict.fromkeys(packages)) or list(_installed)
        for name in names:
            if name not in _installed:
                raise ValueError(f"{name} is not patched; aefast.patched() says what is")
        installed = [one for name in names for one in _installed[name]]
        for one in installed:
            if not one.is_in_place:
                owner, name = one.replacement.owner.__name__, one.replacement.name
                raise RuntimeError(
                    f"{owner}.{name} was replaced by another since aefast.patch; undo that first"
                )
        for one in installed:
            one.remove()
        for name in names:
            del _installed[name]


def patched() -> dict[str, Patched]:
    """What runs on aefast, class by class, and why or why not; with the calls so far.

    >>> import aefast
    >>> with aefast.patch("sklearn"):
    ...     found = aefast.patched()["sklearn.decomposition.PCA"]
    >>> found.served, found.calls
    (True, 0)
    """
    return {
        public_name: _state(package, public_name)
        for package in PEERS
        for public_name in _peer(package).PUBLIC_NAMES
    }


def _state(package: str, public_name: str) -> Patched:
    if package not in _installed:
        missing = importlib.util.find_spec(package) is None
        return Patched(False, f"{package} is not {'installed' if missing else 'patched'}")
    installed = [one for one in _installed[package] if one.replacement.public_name == public_name]
    calls = Calls()
    for one in installed:
        calls.served += one.calls.served
        calls.original.update(one.calls.original)
    return Patched(
        True, _peer(package).PUBLIC_NAMES[public_name], calls.served, dict(calls.original)
    )


def _check_names(packages: tuple[str, ...]) -> None:
    for name in packages:
        if name not in PEERS:
            raise ValueError(f"package is {name!r}; it takes {_choice()}")


def _choice() -> str:
    *names, last = map(repr, PEERS)
    return f"{', '.join(names)} or {last}"


def _replacements(package: str) -> list[Replacement]:
    """What is replaced in an installed package, all of it known."""
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


def _peer(package: str) -> Any:
    return importlib.import_module(f"aefast.patching.{package}")
