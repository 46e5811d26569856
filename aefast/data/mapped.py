"""Arrays mapped from files: a file as it lies, or what was unpacked into a temporary one.

Memory holds no more than what is being read, so that data may be larger.
"""

import errno
import gzip
import lzma
import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Literal

import numpy as np

from aefast.data.dataset import DataError, check_layout, chunks, reading
from aefast.messages import cut

COPIED_BYTES = 2**20
Order = Literal["C", "F"]
Stream = IO[bytes] | BufferedIOBase


def map_file(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype, order: Order, name: str
) -> np.ndarray:
    """The array that begins ``offset`` bytes into a file and ends with it."""
    check_layout(shape, dtype, name)
    _check_size(path.stat().st_size, offset, shape, dtype, name)
    return _in_row_order(np.memmap(path, dtype, "r", offset, shape, order), name)


def unpack(
    stream: Stream, shape: tuple[int, ...], dtype: np.dtype, order: Order, name: str
) -> np.ndarray:
    """The array that is the rest of a decompressing stream.

    Of what the header does not promise one byte is read, to see that there is some: a small file
    may unpack to any size.
    """
    check_layout(shape, dtype, name)
    offset, size = stream.tell(), _size(shape, dtype)
    with scratch(name, size) as file:
        unread = size
        while unread and (block := stream.read(min(unread, COPIED_BYTES))):
            file.write(block)
            unread -= len(block)
        length = offset + size - unread + len(stream.read(1))
        _check_size(length, offset, shape, dtype, name, " and maybe more,")
        return _in_row_order(map_scratch(file, shape, dtype, order), name)


@contextmanager
def scratch(name: str, size: int = 0) -> Iterator[IO[bytes]]:
    """A temporary file without a name, which is gone with the last array mapped from it.

    It is written, not mapped to be written: on a full disk that raises, where a map would die.

    Args:
        name: the source, for messages.
        size: the bytes that are known to be coming.

    Raises:
        DataError: there is no space for them.
    """
    try:
        with tempfile.TemporaryFile() as file:
            if size > shutil.disk_usage(tempfile.gettempdir()).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield file
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        folder = tempfile.gettempdir()
        raise DataError(
            f"{name}: {folder} has no space to unpack it; TMPDIR names another folder"
        ) from error


def map_scratch(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype, order: Order = "C"
) -> np.ndarray:
    """The content that was written to a temporary file."""
    file.flush()
    return np.memmap(file, dtype, "r", 0, shape, order)


@contextmanager
def archive(name: str) -> Iterator[None]:
    """Turns the errors of reading a zip or gzip file into a DataError."""
    packed = (zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError, RuntimeError)
    # A broken file may ask for a dictionary of any size, and have any value in a field.
    damaged = (MemoryError, OverflowError, struct.error)
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, *packed, *damaged) as error:
        reason = cut(error) or type(error).__name__
        raise DataError(f"{name}: a broken archive: {reason}") from error


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _check_size(
    length: int,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    name: str,
    unread: str = "",
) -> None:
    """Check that a file is as long as its header says.

    Args:
        unread: what to say of a file of which not all was read.
    """
    expected = offset + _size(shape, dtype)
    if length != expected:
        fault, more = ("cut short", "") if length < expected else ("too long", unread)
        raise DataError(
            f"{name}: {fault}: {length} bytes,{more} where its header, {dtype} {cut(list(shape))}, "
            f"makes {expected}"
        )


def _in_row_order(array: np.ndarray, name: str) -> np.ndarray:
    """Copy a Fortran-ordered array, in which a sample would lie on D pages."""
    if array.flags.c_contiguous:
        return array
    with scratch(name, array.nbytes) as file:
        for _, chunk in chunks(array):
            with reading(array, name):
                copied = chunk.tobytes()
            file.write(copied)
        return map_scratch(file, array.shape, array.dtype)
