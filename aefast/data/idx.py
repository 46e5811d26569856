"""IDX, the format that MNIST comes in, plain or gzipped.

Two zero bytes, a byte for the dtype, a byte for the number of dimensions, the dimensions as
big-endian 32-bit integers, then the numbers, big-endian and row after row.

Reference: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", 1998.
"""

import gzip
import struct
from pathlib import Path

import numpy as np

from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.mapped import Stream, archive, map_file, unpack

DTYPES = {
    code: np.dtype(name)
    for code, name in {
        0x08: "u1",
        0x09: "i1",
        0x0B: ">i2",
        0x0C: ">i4",
        0x0D: ">f4",
        0x0E: ">f8",
    }.items()
}


def load_idx(path: Path, name: str) -> Dataset:
    """An IDX file, mapped where it is not gzipped."""
    if path.suffix.lower() == ".gz":
        with archive(name), gzip.open(path) as packed:
            shape, dtype = _read_header(packed, name)
            return from_array(unpack(packed, shape, dtype, "C", name), name)
    with path.open("rb") as stream:
        shape, dtype = _read_header(stream, name)
        offset = stream.tell()
    return from_array(map_file(path, offset, shape, dtype, "C", name), name)


def has_magic(path: Path) -> bool:
    """Whether a file of any name begins as an IDX file does."""
    with path.open("rb") as stream:
        return _is_magic(stream.read(4))


def _is_magic(magic: bytes) -> bool:
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in DTYPES


def _read_header(stream: Stream, name: str) -> tuple[tuple[int, ...], np.dtype]:
    magic = stream.read(4)
    if not _is_magic(magic):
        magic_hex = magic.hex(" ") or "nothing"
        raise DataError(
            f"{name}: not an IDX file: it begins with {magic_hex}, not 00 00, 08 to 0e, dimensions"
        )
    dimensions = magic[3]
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(
            f"{name}: cut short: {4 + len(sizes)} bytes, where its header alone takes "
            f"{4 + 4 * dimensions}"
        )
    return struct.unpack(f">{dimensions}I", sizes), DTYPES[magic[2]]
