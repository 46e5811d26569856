"""Tables of numbers as text, ``.csv`` and ``.tsv``, with or without a line of column names."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from aefast.data.dataset import LARGEST, DataError, Dataset, from_array
from aefast.data.mapped import map_scratch, scratch

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def load_table(path: Path, name: str) -> Dataset:
    """One sample a line, as float32. A first line without a number names the columns, and so does
    one of 0, 1, ..., D - 1, D > 2, which pandas writes where columns have no names."""
    with path.open(encoding="utf-8-sig", newline="") as text, scratch(name) as file:
        count = width = 0
        for row in _rows(text, DELIMITERS[path.suffix.lower()], name):
            file.write(row.tobytes())
            count, width = count + 1, len(row)
        if count == 0:
            raise DataError(f"{name}: it holds no line of numbers")
        return from_array(map_scratch(file, (count, width), np.dtype(np.float32)), name)


def _rows(text: TextIO, delimiter: str, name: str) -> Iterator[np.ndarray]:
    """Line after line, float32; blank ones are left out."""
    reader = csv.reader(text, delimiter=delimiter)
    width = 0
    try:
        for fields in filter(None, reader):
            if width == 0:
                width = len(fields)
                counted = [str(i) for i in range(width)] if width > 2 else None
                if all(map(_is_text, fields)) or fields == counted:
                    continue
            if len(fields) != width:
                raise DataError(
                    f"{name}: line {reader.line_num}: {len(fields)} columns, "
                    f"where the first line has {width}"
                )
            yield _numbers(fields, f"{name}: line {reader.line_num}")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: after line {reader.line_num}: not UTF-8 text") from error
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: {error}") from error


def _numbers(fields: list[str], place: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            row = np.array([_number(field) for field in fields]).astype(np.float32)
        if np.isfinite(row).all():
            return row
    except ValueError:
        pass  # the first that is wrong is looked for, be it text or infinite
    column = next(i for i, field in enumerate(fields) if not _is_finite(field))
    raise DataError(
        f"{place}, column {column + 1}: {fields[column]!r}; it takes finite float32 numbers"
    )


def _number(field: str) -> float:
    if "_" in field:  # which Python takes, as in 1_000
        raise ValueError
    return float(field)


def _is_text(field: str) -> bool:
    try:
        _number(field)
    except ValueError:
        return True
    return False


def _is_finite(field: str) -> bool:
    return not _is_text(field) and abs(float(field)) <= LARGEST
