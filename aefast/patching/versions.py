"""Versions of the peer libraries: those that were tested, and the trial that others must pass."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import torch

from aefast.patching.replacement import Replacement, UnknownVersionError, install, remove

# A library's results on small data, by the name of what computed them: numbers that do not depend
# on random draws; of random ones their names, shapes and dtypes.
Results = Mapping[str, np.ndarray]

# Of float32 results, relative to the largest number.
TOLERANCE = 1e-3


def untested_version(distribution: str, tested: tuple[str, ...]) -> str | None:
    """What is installed and what was tested, if that is not of a tested series such as "0.5";
    else None."""
    version = metadata.version(distribution)
    if any(version == series or version.startswith(f"{series}.") for series in tested):
        return None
    return f"{distribution} is {version}; aefast.patch was tested with {', '.join(tested)}"


def check_trial(
    untested: str, trial: Callable[[], Results], replacements: list[Replacement]
) -> None:
    """Check that an untested version has the same results with the replacements as without.

    Raises:
        UnknownVersionError: it has not, or the trial raised an error. Nothing stays replaced.
    """
    try:
        with _restored_generators():
            expected = trial()
            installed = install(replacements)
            try:
                actual = trial()
            finally:
                remove(installed)
    except Exception as error:  # of a version that nobody has tried, any
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnknownVersionError(
            f"{untested}; a trial of this version failed ({line}); nothing was patched"
        ) from error
    different = [name for name, result in expected.items() if not _agree(actual[name], result)]
    if different:
        raise UnknownVersionError(
            f"{untested}; in a trial of this version {different[0]} gave other results than "
            "unpatched; nothing was patched"
        )


def attributes_of(model: object) -> np.ndarray:
    """What a trained model holds: its attributes' names, with shapes and dtypes."""
    return np.array(
        [
            f"{name} {np.shape(value)} {getattr(value, 'dtype', type(value).__name__)}"
            for name, value in sorted(vars(model).items())
        ]
    )


def _agree(actual: np.ndarray, expected: np.ndarray) -> bool:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if actual.dtype.kind != "f":
        return bool((actual == expected).all())
    return bool(np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max())


@contextmanager
def _restored_generators() -> Iterator[None]:
    """A trial's draws leave the program's random numbers as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
