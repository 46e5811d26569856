"""What a user may name as data, and which file here reads it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aefast.data.arrays import load_npy, load_npz
from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.idx import has_magic, load_idx
from aefast.data.images import load_folder
from aefast.data.tables import ENDINGS, load_table

TAKEN = "digits, .npy, .npz, .csv, .tsv, IDX files (also .gz) and folders of images"

READERS: dict[str, Callable[[Path, str], Dataset]] = {
    ".npy": load_npy,
    ".npz": lambda path, name: load_npz(path, None, name),
    **dict.fromkeys(ENDINGS, load_table),
    **dict.fromkeys((".idx", "-ubyte", ".gz"), load_idx),
}


def load(source: str | os.PathLike[str]) -> Dataset:
    """The data that ``source`` names, every number of it checked.

    What is read, and how, is a table in :mod:`aefast.data`.

    Args:
        source: ``"digits"``, a ``.npy``, ``.npz``, ``.csv``, ``.tsv`` or IDX file, an array in an
            ``.npz``, as ``x.npz:name``, or a folder of images.

    Raises:
        DataError: it is missing, of an unknown kind, empty, broken or cut short, or holds labels,
            text, objects, complex numbers, NaN or infinities. One line that names the place.

    >>> from aefast.data import load
    >>> load("digits").sample_shape
    (8, 8)
    """
    name = os.fspath(source)
    try:
        return _read(name)
    except OSError as error:
        raise DataError(f"{error.filename or name}: {error.strerror or error}") from error


def split_member(source: str) -> tuple[str, str | None]:
    """The file that a source names, and which array in it."""
    stem, colon, member = source.rpartition(".npz:")
    return (stem + ".npz", member) if colon else (source, None)


def _read(source: str) -> Dataset:
    if source == "digits":
        return _load_digits()
    file, member = split_member(source)
    path = Path(file)
    if path.is_dir():
        return load_folder(path, source)
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{source} is no regular file")
    if member is not None:
        return load_npz(path, member, source)
    for ending, reader in READERS.items():
        if path.name.lower().endswith(ending):
            return reader(path, source)
    if has_magic(path):
        return load_idx(path, source)
    raise DataError(f"{source}: an unknown kind of file; it takes {TAKEN}")


def _load_digits() -> Dataset:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "digits: scikit-learn has them: pip install 'aefast[estimators]'"
        ) from error
    return from_array(datasets.load_digits().images.astype(np.uint8), "digits", scale=16.0)
