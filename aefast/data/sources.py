"""The kinds of data sources, and the reader of each."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aefast.data.arrays import load_npy, load_npz
from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.idx import has_magic, load_idx
from aefast.data.images import SUFFIXES, find, load_folder
from aefast.data.shards import ENDINGS as ENDINGS_OF_SHARDS
from aefast.data.shards import load_shards
from aefast.data.tables import ENDINGS, load_table

FORMATS = (
    "digits, .npy, .npz, .csv, .tsv, .safetensors, IDX files (also .gz), and folders of images or "
    "of shards"
)

READERS: dict[str, Callable[[Path, str], Dataset]] = {
    ".npy": load_npy,
    ".npz": lambda path, name: load_npz(path, None, name),
    ".safetensors": lambda path, name: load_shards([path], name),
    **dict.fromkeys(ENDINGS, load_table),
    **dict.fromkeys((".idx", "-ubyte", ".gz"), load_idx),
}


def load(source: str | os.PathLike[str]) -> Dataset:
    """The data that ``source`` names, every number of it checked.

    What is read, and how, is a table in :mod:`aefast.data`.

    Args:
        source: ``"digits"``, a ``.npy``, ``.npz``, ``.csv``, ``.tsv`` or IDX file, an array in an
            ``.npz``, as ``x.npz:name``, a folder of images, or one of shards.

    Raises:
        DataError: it is missing, of an unknown kind, empty, broken or cut short, or holds labels,
            text, objects, complex numbers, NaN or infinities. One line that names the place.

    >>> from aefast.data import load
    >>> load("digits").sample_shape
    (8, 8)
    """
    name = os.fsdecode(source)
    if not name or "\0" in name:
        raise DataError(f"source is {name!r}; it takes the name of a file or a folder")
    try:
        return _read(name)
    except OSError as error:
        raise DataError(f"{error.filename or name}: {error.strerror or error}") from error


def split_member(source: str) -> tuple[str, str | None]:
    """A source's file, and the name of the array in it, if it has one."""
    named = re.fullmatch(r"(.*\.npz):(.*)", source, re.IGNORECASE | re.DOTALL)
    return (named[1], named[2]) if named else (source, None)


def _read(source: str) -> Dataset:
    if source == "digits":
        return _load_digits()
    file, member = split_member(source)
    path = Path(file)
    if path.is_dir():
        return _read_folder(path, source)
    if not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"{source} is no regular file")
    if member is not None:
        return load_npz(path, member, source)
    for ending, reader in READERS.items():
        if path.name.lower().endswith(ending):
            return reader(path, source)
    if has_magic(path):
        return load_idx(path, source)
    raise DataError(f"{source}: an unknown kind of file; it takes {FORMATS}")


def _read_folder(folder: Path, name: str) -> Dataset:
    """The images of a folder if it holds one, else its shards."""
    paths = sorted(find(folder, ENDINGS_OF_SHARDS))
    if paths and next(find(folder, SUFFIXES), None) is None:
        return load_shards(paths, name)
    return load_folder(folder, name)


def _load_digits() -> Dataset:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "digits: scikit-learn has them: pip install 'aefast[estimators]'"
        ) from error
    return from_array(datasets.load_digits().images.astype(np.uint8), "digits", scale=16.0)
