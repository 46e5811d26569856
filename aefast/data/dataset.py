"""A dataset: samples as the rows of one array, in memory or mapped from a file."""

import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from aefast import backend
from aefast.messages import OneLineError, cut

if TYPE_CHECKING:
    from aefast._C import MappingGuard

CHUNK_BYTES = 2**24
BLOCK_BYTES = 2**18
LARGEST = float(np.finfo(np.float32).max)
DIMENSIONS = 32


class DataError(OneLineError):
    """A source cannot be read; the message, one line, names the file and the place in it."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples as rows of numbers. :func:`aefast.data.load` makes one.

    Attributes:
        rows: ``[N, D]``, uint8, another integer, bool or a float dtype; may be a ``np.memmap``.
        sample_shape: of one sample before it was flattened: ``(28, 28)``, ``(64,)``.
        scale: samples are ``rows / scale``: 255 for uint8 of more than 0 and 1, 1 for floats.
        name: the source as the user wrote it.
        low: the smallest number, after scaling.
        high: the largest one.
        checksum: the CRC-32 of the rows' bytes, before scaling: data that changed have another.
        notes: what was left out or taken in another way than the file says, a line each.

    >>> import torch
    >>> from aefast.data import load
    >>> digits = load("digits")
    >>> len(digits), digits.sample_shape, digits.low, digits.high
    (1797, (8, 8), 0.0, 1.0)
    >>> digits.take(torch.tensor([3, 0])).shape
    torch.Size([2, 64])
    """

    rows: np.ndarray
    sample_shape: tuple[int, ...]
    scale: float
    name: str
    low: float
    high: float
    checksum: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _in_memory(self) -> Tensor | None:
        """The rows as a tensor, if torch can gather them, which takes half of NumPy's time."""
        is_plain = self.rows.dtype in (np.uint8, np.float32) and self.rows.flags.writeable
        is_mapped = isinstance(self.rows, np.memmap)
        is_regular = self.rows.flags.aligned and min(self.rows.strides) >= 0  # as torch's are
        return torch.from_numpy(self.rows) if is_plain and is_regular and not is_mapped else None

    def take(self, indices: Tensor) -> Tensor:
        """The samples of those ``indices``, int64 ``[B]``, in their order: float32 ``[B, D]``.

        Raises:
            IndexError: an index is outside the rows.
            DataError: the file that they are mapped from has been cut since.
        """
        if self._in_memory is not None:
            samples = self._in_memory.index_select(0, indices).float()
            return samples if self.scale == 1 else samples.div_(self.scale)
        with reading(self.rows, self.name):
            return self._copied(indices)

    def _copied(self, indices: Tensor) -> Tensor:
        # Into torch's memory: a product's bits may depend on its alignment.
        rows, order = np.asarray(self.rows), indices.numpy()
        samples = torch.empty(len(order), rows.shape[1], dtype=torch.float32, device="cpu")
        out = samples.numpy()
        # In blocks that stay in cache: without them this took five times as long.
        step = max(1, BLOCK_BYTES // (rows.itemsize * rows.shape[1]))
        for first in range(0, len(order), step):
            block = slice(first, first + step)
            out[block] = rows.take(order[block], axis=0)
            if self.scale != 1:
                out[block] /= np.float32(self.scale)
        return samples

    def on_scale(self, scale: float) -> "Dataset":
        """The same rows, divided by another number."""
        ratio = self.scale / scale
        return replace(self, scale=scale, low=self.low * ratio, high=self.high * ratio)


def from_array(
    array: np.ndarray, name: str, scale: float | None = None, notes: tuple[str, ...] = ()
) -> Dataset:
    """The dataset of an array ``[N, ...]`` in row order; all of its numbers are checked.

    Args:
        array: in memory or mapped; it is not copied.
        name: the source, for messages.
        scale: what to divide by; None takes 255 for uint8 with a number above 1, and 1 for all
            else: bits are no grey levels.
        notes: the dataset's.

    Raises:
        DataError: a number is NaN, infinite or beyond float32.
    """
    sample_shape = array.shape[1:]
    rows = array.reshape(len(array), -1)
    low, high, checksum = _summary(rows, name)
    if scale is None:
        scale = 255.0 if rows.dtype == np.uint8 and high > 1 else 1.0
        if rows.dtype == np.uint8 and scale == 1:
            notes += (f"{name}: its uint8 numbers are 0 and 1, and are not divided by 255",)
    return Dataset(rows, sample_shape, scale, name, low / scale, high / scale, checksum, notes)


def chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Slices of ``CHUNK_BYTES`` or one sample, each with the number of its first sample."""
    step = max(1, CHUNK_BYTES * len(array) // array.nbytes)
    for first in range(0, len(array), step):
        yield first, array[first : first + step]


def check_layout(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """Check that a header's shape and dtype can be samples'."""
    if dtype.kind not in "buif":
        raise DataError(f"{name}: its numbers are {cut(dtype)}; it takes bool, integers or floats")
    if len(shape) < 2:
        raise DataError(
            f"{name}: it has shape {cut(list(shape))}, as labels have; it takes samples, [N, ...]"
        )
    if len(shape) > DIMENSIONS:
        raise DataError(f"{name}: it has {len(shape)} dimensions; it takes {DIMENSIONS} at most")
    if min(shape) < 1:
        raise DataError(
            f"{name}: it has shape {cut(list(shape))}; it takes one sample and one column, or more"
        )


# Each memory map's guard; None without the extension.
_guards: WeakKeyDictionary[mmap.mmap, "MappingGuard | None"] = WeakKeyDictionary()


@contextmanager
def reading(rows: object, name: str) -> Iterator[None]:
    """Guard the reading of rows that may be mapped from a file.

    Another process may cut the file. To read past its end is a SIGBUS, which ends the process
    unless the extension's guard handles it.

    Raises:
        DataError: the file was cut; what was read may be zeros.
    """
    mapped_rows = _mapped_under(rows)
    if mapped_rows is None:
        yield
        return
    guard = _guard_of(mapped_rows._mmap)  # type: ignore[attr-defined]
    _check_whole(mapped_rows, guard, name)
    try:
        yield
    finally:
        _check_whole(mapped_rows, guard, name)


def is_mapped(rows: np.ndarray) -> bool:
    """Whether rows are a memory map, or a view of one."""
    return _mapped_under(rows) is not None


def _mapped_under(rows: object) -> np.memmap | None:
    """The memory map that an array is or views; None if there is none."""
    while isinstance(rows, np.ndarray):
        if isinstance(rows, np.memmap) and isinstance(rows._mmap, mmap.mmap):  # type: ignore[attr-defined]
            return rows
        rows = rows.base
    return None


def _guard_of(mapped: mmap.mmap) -> "MappingGuard | None":
    if mapped not in _guards:
        guard = None
        if backend.unavailable("cpp", "cpu") is None:
            first = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
            guard = backend.extension().MappingGuard(first, len(mapped))
        _guards[mapped] = guard
    guard = _guards[mapped]
    if guard is not None:
        guard.watch()
    return guard


def _check_whole(rows: np.memmap, guard: "MappingGuard | None", name: str) -> None:
    mapped = rows._mmap  # type: ignore[attr-defined]
    start = rows.offset - rows.offset % mmap.ALLOCATIONGRANULARITY
    if mapped.size() < start + len(mapped):
        raise DataError(f"{name}: it was cut to {mapped.size()} bytes while it was in use")
    if guard is not None and guard.is_cut():
        raise DataError(f"{name}: it was cut while it was in use")


def _summary(rows: np.ndarray, name: str) -> tuple[float, float, int]:
    """The smallest number, the largest, and the CRC-32 of all bytes, in one pass over the rows."""
    low, high, checksum = np.inf, -np.inf, 0
    for first, chunk in chunks(rows):
        with reading(rows, name):
            least, most = float(chunk.min()), float(chunk.max())
            crc = zlib.crc32(np.ascontiguousarray(chunk).data, checksum)
        if not (least >= -LARGEST and most <= LARGEST):
            row, column = _first_wrong(chunk)
            raise DataError(
                f"{name}: row {first + row}, column {column}, counted from 0, is "
                f"{chunk[row, column]}; it takes finite float32 numbers"
            )
        low, high = min(low, least), max(high, most)
        checksum = crc
    return low, high, checksum


def _first_wrong(chunk: np.ndarray) -> tuple[int, int]:
    """The row and the column of the first number that is not a finite float32."""
    # In the widest dtype: the largest float32 is infinite in half precision.
    rows = (~(np.abs(numbers.astype(np.longdouble)) <= LARGEST) for numbers in chunk)
    return next((row, int(wrong.argmax())) for row, wrong in enumerate(rows) if wrong.any())
