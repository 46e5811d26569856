"""NumPy's own files, ``.npy`` and ``.npz``. Nothing is ever unpickled."""

import tokenize
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.mapped import Order, Stream, archive, map_file, unpack

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LISTED = 8


def load_npy(path: Path, name: str) -> Dataset:
    """A mapped ``[N, ...]`` array."""
    with path.open("rb") as stream:
        shape, dtype, order = _read_header(stream, name)
        offset = stream.tell()
    return from_array(map_file(path, offset, shape, dtype, order, name), name)


def load_npz(path: Path, member: str | None, name: str) -> Dataset:
    """The array of that name in the file, or the only one in it."""
    with archive(name), zipfile.ZipFile(path) as file:
        members = [entry[:-4] for entry in file.namelist() if entry.endswith(".npy")]
        chosen = _choose(members, member, path, name)
        with file.open(f"{chosen}.npy") as stream:
            shape, dtype, order = _read_header(stream, name)
            array = unpack(stream, shape, dtype, order, name)
    return from_array(array, name)


def _choose(members: list[str], member: str | None, path: Path, name: str) -> str:
    listed = ", ".join(members[:LISTED]) + (", ..." if len(members) > LISTED else "")
    if not members:
        raise DataError(f"{name}: it holds no array")
    if member is None:
        if len(members) > 1:
            raise DataError(f"{name}: it holds {listed}; name one, as {path}:{members[0]}")
        return members[0]
    if member not in members:
        raise DataError(f"{name}: it holds no {member}; it holds {listed}")
    return member


def _read_header(stream: Stream, name: str) -> tuple[tuple[int, ...], np.dtype, Order]:
    """Shape, dtype and order, ``"C"`` or ``"F"``."""
    try:
        version = npy.read_magic(stream)
        if version not in HEADERS:
            raise DataError(f"{name}: its .npy version is {version}; it takes 1.0 and 2.0")
        shape, is_fortran, dtype = HEADERS[version](stream)
    except DataError:
        raise
    except (ValueError, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: no .npy header: {reason}") from error
    return shape, dtype, "F" if is_fortran else "C"
