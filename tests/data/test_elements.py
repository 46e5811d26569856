"""What is no number, in arrays, lists and tables."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aefast.data.elements import check_elements

ROWS = np.arange(6.0).reshape(3, 2)
MASKED = np.ma.masked_greater(ROWS, 3)
TIMES = np.array([["2020", "2021"]], "datetime64[Y]")


def objects(*elements):
    array = np.empty((1, len(elements)), object)
    array[0, :] = elements
    return array


def table(*dtypes):
    """As tables of pandas and polars have their dtypes."""
    return SimpleNamespace(columns=["a", "b"], dtypes=dtypes)


def arrow_table(*dtypes):
    fields = [
        SimpleNamespace(name=name, type=kind) for name, kind in zip("ab", dtypes, strict=True)
    ]
    return SimpleNamespace(schema=fields, columns=[])


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        ROWS > 1,
        ROWS.astype(object),
        ROWS.astype(str),
        np.ma.masked_array(ROWS, False),
        [*np.ma.masked_array(ROWS, False)],
        ROWS.tolist(),
        [[1, 2], 3, "text"],
        torch.ones(2, 2),
        table("float64", "Sparse[float64, 0]"),
        arrow_table("double", "string"),
        None,
        3,
    ],
)
def test_numbers_and_what_becomes_an_error_elsewhere_are_left_alone(data):
    check_elements(data, "X")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (MASKED, "X has 2"),
        (MASKED.astype(object), "X has 2"),
        ([*MASKED], r"X\[2\] has 2"),
        (tuple(MASKED), r"X\[2\] has 2"),
        ([[1.0, 2.0], [1.0, np.ma.masked]], r"X\[1\] has"),
        (objects(1.0, np.ma.masked), "X has"),
    ],
)
def test_masked_numbers_are_refused(data, place):
    with pytest.raises(ValueError, match=f"^{place} masked numbers; it takes none$"):
        check_elements(data, "X")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TIMES, r"X has dtype datetime64\[Y\]"),
        (TIMES - TIMES, r"X has dtype timedelta64\[Y\]"),
        ([*TIMES], r"X\[0\] has dtype datetime64\[Y\]"),
        ([[1.0, 2.0], [3.0, np.datetime64("2020")]], r"X\[1\] has times"),
        (objects(1.0, np.timedelta64(3, "ns")), "X has times"),
        (
            table("float64", "datetime64[us, UTC]"),
            r"X's column 'b' has dtype datetime64\[us, UTC\]",
        ),
        (table("period[D]", "float64"), r"X's column 'a' has dtype period\[D\]"),
        (
            table("int8", "duration[ns][pyarrow]"),
            r"X's column 'b' has dtype duration",
        ),
        (table("int8", "Datetime(time_unit='us')"), "X's column 'b' has dtype Datetime"),
        (arrow_table("double", "date32[day]"), r"X's column 'b' has dtype date32\[day\]"),
    ],
)
def test_times_are_refused(data, message):
    with pytest.raises(TypeError, match=f"^{message}.*; it takes numbers$"):
        check_elements(data, "X")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (ROWS + 0j, "X"),
        (torch.ones(2, 2) + 0j, "X"),
        ([*(ROWS + 1j)], r"X\[0\]"),
        (table("float64", "complex128"), "X's column 'b'"),
    ],
)
def test_complex_numbers_are_refused_in_one_line(data, place):
    message = rf"^Complex data not supported: {place} has dtype complex\d+; it takes real numbers$"
    with pytest.raises(ValueError, match=message):
        check_elements(data, "X")
