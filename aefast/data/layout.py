"""The layout of a table of numbers, detected from its lines.

That is its delimiter, its comments, a line of column names, and a column that names or counts the
rows.
"""

import contextlib
import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from aefast.data.dataset import DataError

# The first one wins where several fit: 1,5;2,25 has two columns.
DELIMITERS = ("\t", ";", ",", "|", " ")
SNIFFED_LINES = 20  # from which the delimiter and the header are detected
LARGEST_LINE = 2**24
# Excel's error values are missing numbers, not comments.
COMMENT = re.compile(r"\s*#(?!N/A|NUM!|DIV/0!|VALUE!|REF!|NAME\?|NULL!)")

# A line by which Excel names the delimiter.
HINT = re.compile(r"\"?sep=.?\"?", re.IGNORECASE)

MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "nat", "null", "none", "missing"}
MISSING |= {"?", "-", "."}

# The names that pandas and R give a column of row names, beside "Unnamed: 0".
INDEX_NAMES = {"", "index", "level_0", "row.names", "rownames"}

# A column of these names, or of none, is an index if it counts at least so many rows.
COUNTED_NAMES = {None, "id", "idx", "row", "row_id", "rowid", "row_number", "no", "no.", "nr"}
COUNTED_NAMES |= {"number", "obs", "sample", "sample_id"}
COUNTED_ROWS = 3

# So many numbers in even, rising steps are column names, not a sample.
FEWEST_EVEN_STEPS = 8


@dataclass(frozen=True)
class Layout:
    """How a table's file is written: its delimiter, header and columns.

    Attributes:
        delimiter: between columns.
        has_header: whether the first line names the columns.
        first_width: the number of columns of the first line.
        width: the number of columns of a sample's line.
        index: the number of leading columns that name or count the rows.
        notes: what was left out of the samples, a line each.
    """

    delimiter: str
    has_header: bool
    first_width: int
    width: int
    index: int = 0
    notes: tuple[str, ...] = ()


def find_layout(path: Path, name: str) -> Layout:
    """Detect the layout from the first lines; what may be an index is checked in all lines.

    Raises:
        DataError: there is no line, or one is not text.
    """
    with _opened(path) as text:
        lines = [line for _, line in islice(_lines(text, name), SNIFFED_LINES)]
    if not lines:
        raise DataError(f"{name}: it holds no line of numbers")
    delimiter = _delimiter(lines)
    bare = Layout(delimiter, has_header=False, first_width=0, width=0)
    rows = (fields for _, fields in records(path, bare, name))
    first, second = [*islice(rows, 2), [], []][:2]
    has_header = _is_header(first, second, delimiter)
    has_row_names = has_header and len(second) == len(first) + 1 > 2
    names: list[str | None] = [None]
    if has_header:
        names = [*([""] if has_row_names else []), *(field.strip().lower() for field in first)]
    layout = Layout(delimiter, has_header, len(first), len(first) + has_row_names)
    index = _count_index(path, layout, names, name)
    if has_row_names and index == 0:  # then the first line is too short
        layout = replace(layout, width=len(first))
    return replace(layout, index=index, notes=tuple(_notes(layout, first, index, name)))


def records(path: Path, layout: Layout, name: str) -> Iterator[tuple[int, list[str]]]:
    """The samples' lines: each line's number, from 1, and its fields, the index included.

    Raises:
        DataError: a line is not text, or is too long.
    """
    with _opened(path) as text:
        numbered = _Numbered(_lines(text, name, layout.delimiter))
        rows = _reader(numbered, layout.delimiter)
        try:
            for fields in islice(rows, layout.has_header, None):
                yield numbered.number, fields
        except csv.Error as error:
            raise DataError(f"{name}: line {numbered.number}: {error}") from error


def number(field: str, delimiter: str) -> float:
    """A number with a decimal point or, unless commas divide the columns, a decimal comma.

    Raises:
        ValueError: it is not a number.
    """
    if "_" in field:  # float() takes 1_000
        raise ValueError
    if delimiter != "," and "," in field and "." not in field:
        field = field.replace(",", ".")
    return float(field)


def is_text(field: str, delimiter: str) -> bool:
    try:
        number(field, delimiter)
    except ValueError:
        return True
    return False


def is_missing(field: str) -> bool:
    return field.strip().lower() in MISSING


class _Numbered:
    """An iterator over lines that knows the number of the last one."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self.lines = lines
        self.number = 0

    def __iter__(self) -> "_Numbered":
        return self

    def __next__(self) -> str:
        self.number, line = next(self.lines)
        return line


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _lines(text: TextIO, name: str, delimiter: str = "") -> Iterator[tuple[int, str]]:
    """Each line that is neither blank nor a comment, with its number from 1. Where tabs divide the
    columns, a line of tabs is a sample whose numbers are missing."""
    blanks = " \r\n\v\f" if delimiter == "\t" else None
    count = 0
    try:
        while line := text.readline(LARGEST_LINE + 1):
            count += 1
            if len(line) > LARGEST_LINE:
                raise DataError(f"{name}: line {count} has more than {LARGEST_LINE} characters")
            is_hint = count == 1 and HINT.fullmatch(line.strip(" \r\n"))
            if line.strip(blanks) and not COMMENT.match(line) and not is_hint:
                yield count, line
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: after line {count}: not UTF-8 text") from error


def _reader(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    if delimiter == " ":  # several count as one, and those at the ends do not count
        lines = (line.strip() for line in lines)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _widths(lines: list[str], delimiter: str) -> list[int]:
    """The number of fields of each line; the fields themselves would take too much memory."""
    widths: list[int] = []
    with contextlib.suppress(csv.Error):  # raised, with its place, when all lines are read
        for row in _reader(iter(lines), delimiter):
            widths.append(len(row))
    return widths


def _delimiter(lines: list[str]) -> str:
    """The delimiter at which most lines have as many fields as the first line after a header."""

    def agreeing(delimiter: str) -> int:
        widths = _widths(lines, delimiter)
        widths = widths[1:] or widths
        return widths.count(widths[0]) if widths and widths[0] > 1 else 0

    delimiter = max(DELIMITERS, key=agreeing)
    return delimiter if agreeing(delimiter) else ","


def _is_header(first: list[str], second: list[str], delimiter: str) -> bool:
    """A line of text, or of numbers that name columns: 0, 1, ..., D - 1, as pandas writes where
    they have no names; these beside an index's column, which has none; 1, 2, ..., D over numbers
    that are no integers; or rise in even steps, as wavelengths do."""
    if all(is_text(field, delimiter) for field in first):
        return not all(map(is_missing, first))
    if first[0] == "" and not any(is_text(field, delimiter) for field in first[1:]):
        return bool(second) and second[0] != ""
    counts = [str(i) for i in range(len(first) + 1)]
    integers = sum(map(_is_integer, second))
    if first == counts[:-1]:
        return len(first) > 2 or (len(first) == 2 and second != [] and integers == 0)
    if first == counts[1:]:
        return len(first) > 2 and integers < len(second)
    return (
        len(first) >= FEWEST_EVEN_STEPS
        and _rises_evenly(first, delimiter)
        and not _rises_evenly(second, delimiter)
    )


def _rises_evenly(fields: list[str], delimiter: str) -> bool:
    """Whether the numbers rise in even steps."""
    if any(is_text(field, delimiter) for field in fields):
        return False
    steps = np.diff([number(field, delimiter) for field in fields])
    return bool((steps > 0).all() and np.ptp(steps) <= 1e-6 * steps.max())


def _is_integer(field: str) -> bool:
    return field.strip().lstrip("+-").isdecimal()


class _Column:
    """Reads a column's fields, row by row: whether it can be an index."""

    def __init__(self, must_count: bool, delimiter: str) -> None:
        self.must_count, self.delimiter = must_count, delimiter
        self.rows = 0
        self.start = math.nan
        self.last = -math.inf
        self.is_natural = self.is_text = self.is_counting = self.is_rising = True

    def update(self, field: str) -> None:
        is_name = is_text(field, self.delimiter)
        value = math.nan if is_name else number(field, self.delimiter)
        if self.rows == 0:
            self.start = value
        # 1.0 counts as 1 does: pandas writes integers so where some were missing.
        self.is_natural &= value >= 0 and value.is_integer()
        self.is_counting &= value == self.start + self.rows and self.start in (0, 1)
        self.is_text &= is_name and not is_missing(field)
        self.is_rising &= value > self.last
        self.last = value
        self.rows += 1

    @property
    def is_index(self) -> bool:
        """Names are natural numbers, text, or, as times are, numbers that rise."""
        is_long = self.rows >= COUNTED_ROWS
        if self.must_count:
            return self.is_counting and is_long
        return self.rows > 0 and (self.is_natural or self.is_text or (self.is_rising and is_long))


def _count_index(path: Path, layout: Layout, names: list[str | None], name: str) -> int:
    """The number of leading columns that are an index, by their names and their fields."""
    columns = []
    for label in names[: layout.width - 1]:
        is_unnamed = label in INDEX_NAMES or (label or "").startswith("unnamed: ")
        if not is_unnamed and label not in COUNTED_NAMES:
            break
        columns.append(_Column(not is_unnamed, layout.delimiter))
    if columns:
        for _, fields in records(path, layout, name):
            for column, field in zip(columns, fields, strict=False):
                column.update(field)
    return next((i for i, column in enumerate(columns) if not column.is_index), len(columns))


def _notes(layout: Layout, first: list[str], index: int, name: str) -> Iterator[str]:
    if layout.has_header and any(not is_text(field, layout.delimiter) for field in first):
        yield f"{name}: its first line counts the columns, and is no sample"
    if index:
        columns = "its first column names" if index == 1 else f"its first {index} columns name"
        yield f"{name}: {columns} the rows: left out"
    elif layout.has_header and layout.width > 1 and first[0] == "":
        yield f"{name}: its first column has no name, and is read: its numbers name no rows"
