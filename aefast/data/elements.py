"""Checks of the elements of a user's array: times and masked elements are refused as numbers."""

from collections.abc import Iterable, Iterator

import numpy as np

from aefast.messages import cut

# How the names of times' dtypes begin, in NumPy, pandas, PyArrow and polars.
TIMES = ("date", "time", "duration", "period")


def check_elements(data: object, argument: str) -> None:
    """Check that the elements of an array, a list of rows or a table are real numbers.

    NumPy would read the numbers under a mask, times as counts since 1970, and complex numbers
    without their imaginary parts.

    Raises:
        TypeError: elements are times.
        ValueError: an element is masked, or complex.
    """
    if isinstance(data, list | tuple):
        _check_rows(data, argument)
        return
    # A mask first: the object dtype of an array with one says nothing.
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        raise ValueError(f"{argument} has {np.ma.count_masked(data)} masked numbers; it takes none")
    if isinstance(data, np.ndarray):
        if data.dtype.kind in "buif":
            return
        if data.dtype == object:
            _check_objects(data.flat, argument)
    for place, dtype in _dtypes(data, argument):
        if dtype.lower().startswith(TIMES):
            raise TypeError(f"{place} has dtype {cut(dtype)}; it takes numbers")
        if dtype.startswith("complex"):
            # The first words are those that scikit-learn's checks look for.
            raise ValueError(
                f"Complex data not supported: {place} has dtype {dtype}; it takes real numbers"
            )


def _check_rows(rows: list[object] | tuple[object, ...], argument: str) -> None:
    for number, row in enumerate(rows):
        if isinstance(row, list | tuple):
            _check_objects(row, f"{argument}[{number}]")
        elif hasattr(row, "dtype"):
            check_elements(row, f"{argument}[{number}]")


def _check_objects(elements: Iterable[object], place: str) -> None:
    kinds = set(map(type, elements))
    if np.ma.core.MaskedConstant in kinds:
        raise ValueError(f"{place} has masked numbers; it takes none")
    if kinds & {np.datetime64, np.timedelta64}:
        raise TypeError(f"{place} has times; it takes numbers")


def _dtypes(data: object, argument: str) -> Iterator[tuple[str, str]]:
    """The dtypes of an array, or of a table's columns, by name, each after its place."""
    if hasattr(data, "dtype"):
        yield argument, str(data.dtype).removeprefix("torch.")
    elif hasattr(data, "dtypes") and hasattr(data, "columns"):  # of pandas or polars
        for name, dtype in zip(data.columns, data.dtypes, strict=True):
            yield f"{argument}'s column {cut(repr(name))}", str(dtype)
    elif hasattr(data, "schema"):  # of PyArrow
        for field in data.schema:
            yield f"{argument}'s column {cut(repr(field.name))}", str(field.type)
