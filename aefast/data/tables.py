"""Tables of numbers as text, ``.csv`` and ``.tsv``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aefast.data.dataset import LARGEST, DataError, Dataset, from_array
from aefast.data.layout import Layout, find_layout, is_missing, is_text, number, records
from aefast.data.mapped import map_scratch, scratch
from aefast.messages import cut

ENDINGS = (".csv", ".tsv")


def load_table(path: Path, name: str) -> Dataset:
    """The samples of a table, a line each, as float32, without column and row names."""
    layout = find_layout(path, name)
    with scratch(name) as file:
        count = width = 0
        for row in _rows(path, layout, name):
            file.write(row.tobytes())
            count, width = count + 1, len(row)
        if count == 0:
            raise DataError(f"{name}: it holds no line of numbers")
        array = map_scratch(file, (count, width), np.dtype(np.float32))
        return from_array(array, name, notes=layout.notes)


def _rows(path: Path, layout: Layout, name: str) -> Iterator[np.ndarray]:
    """Line after line, float32."""
    marks: dict[str, str] = {}  # each decimal mark, and the place of the first number with it
    for line, fields in records(path, layout, name):
        location = f"{name}: line {line}"
        if len(fields) != layout.width:
            raise DataError(
                f"{location}: {len(fields)} columns, where the first line has {layout.first_width}"
            )
        yield _numbers(fields, layout, location)
        if layout.delimiter != ",":
            _check_marks(fields, layout.index, marks, location)


def _numbers(fields: list[str], layout: Layout, location: str) -> np.ndarray:
    delimiter, index = layout.delimiter, layout.index
    try:
        with np.errstate(over="ignore"):
            row = np.array([number(field, delimiter) for field in fields[index:]])
            row = row.astype(np.float32)
        if np.isfinite(row).all():
            return row
    except ValueError:
        pass  # the first wrong field is looked for below: text, or infinite
    wrong = (not _is_finite(field, delimiter) for field in fields[index:])
    column = index + list(wrong).index(True)
    missing = ", and no missing value" if is_missing(fields[column]) else ""
    raise DataError(
        f"{location}, column {column + 1}: {cut(fields[column])!r}; "
        f"it takes finite float32 numbers{missing}"
    )


def _is_finite(field: str, delimiter: str) -> bool:
    return not is_text(field, delimiter) and abs(number(field, delimiter)) <= LARGEST


def _check_marks(fields: list[str], index: int, marks: dict[str, str], location: str) -> None:
    """Check that a table has one decimal mark: beside 2.5, 1,234 may mean a thousand.

    Raises:
        DataError: it has both.
    """
    for column, field in enumerate(fields[index:], start=index + 1):
        for mark in ",.":
            if mark in field:
                marks.setdefault(mark, field)
        if len(marks) == 2:
            first, second = map(cut, marks.values())
            raise DataError(
                f"{location}, column {column}: {second!r}, where {first!r} has another decimal mark"
            )
