"""NumPy's own files, ``.npy`` and ``.npz``. Nothing is ever unpickled."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.mapped import Order, Stream, archive, map_file, unpack
from aefast.messages import cut

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LISTED = 8

# NumPy's limit, which it checks after it has read as many characters as the header says.
HEADER_BYTES = 2**14
LARGEST_SIZE = 2**63 - 1

# The arrays that scipy.sparse.save_npz writes in every format.
SPARSE = {"format", "shape", "data"}


def load_npy(path: Path, name: str) -> Dataset:
    """A mapped ``[N, ...]`` array."""
    with path.open("rb") as stream:
        shape, dtype, order, offset = read_npy_header(stream, name)
    return from_array(map_file(path, offset, shape, dtype, order, name), name)


def load_npz(path: Path, member: str | None, name: str) -> Dataset:
    """The array with this name in the file; without a name, its only array."""
    with archive(name), zipfile.ZipFile(path) as file:
        members = [entry[:-4] for entry in file.namelist() if entry.endswith(".npy")]
        chosen = _choose(members, member, path, name)
        with file.open(f"{chosen}.npy") as stream:
            shape, dtype, order, offset = read_npy_header(stream, name)
            stream.seek(offset)
            array = unpack(stream, shape, dtype, order, name)
    return from_array(array, name)


def _choose(members: list[str], member: str | None, path: Path, name: str) -> str:
    if set(members) >= SPARSE:
        raise DataError(
            f"{name}: it holds a sparse matrix, as scipy.sparse.save_npz writes it; it takes a "
            "dense one: numpy.save(path, scipy.sparse.load_npz(path).toarray())"
        )
    names = [cut(one) for one in members]
    listed = ", ".join(names[:LISTED]) + (", ..." if len(members) > LISTED else "")
    if not members:
        raise DataError(f"{name}: it holds no array")
    if member is None:
        if len(members) > 1:
            raise DataError(f"{name}: it holds {listed}; name one, as {path}:{names[0]}")
        return members[0]
    if member not in members:
        raise DataError(f"{name}: it holds no {member}; it holds {listed}")
    return member


def read_npy_header(stream: Stream, name: str) -> tuple[tuple[int, ...], np.dtype, Order, int]:
    """Shape, dtype, order, ``"C"`` or ``"F"``, and the header's length."""
    start = io.BytesIO(stream.read(HEADER_BYTES))
    try:
        version = npy.read_magic(start)
        if version not in HEADERS:
            raise DataError(f"{name}: its .npy version is {version}; it takes 1.0 and 2.0")
        with warnings.catch_warnings(action="ignore"):  # about headers that Python 2 wrote
            shape, is_fortran, dtype = HEADERS[version](start)
    except DataError:
        raise
    except Exception as error:  # NumPy evaluates what stands there: SyntaxError, IndexError, ...
        reason = cut(str(error).partition("\n")[0]) or type(error).__name__
        raise DataError(f"{name}: no .npy header: {reason}") from error
    if any(isinstance(size, bool) for size in shape):
        raise DataError(f"{name}: no .npy header: shape is not valid: {cut(shape)}")
    if max(map(abs, shape), default=0) > LARGEST_SIZE:
        raise DataError(f"{name}: no .npy header: a number of its shape is beyond int64")
    return shape, dtype, "F" if is_fortran else "C", start.tell()
