"""What a user may name as data, and which file here reads it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from aefast.data.arrays import load_npy, load_npz
from aefast.data.dataset import DataError, Dataset, from_array
from aefast.data.idx import has_magic, load_idx
from aefast.data.images import load_folder
from aefast.data.tables import DELIMITERS, load_table

TAKEN = "digits, .npy, .npz, .csv, .tsv, IDX files (also .gz) and folders of images"

READERS: dict[str, Callable[[Path, str], Dataset]] = {
    ".npy": load_npy,
    ".npz": lambda path, name: load_npz(path, None, name),
    **dict.fromkeys(DELIMITERS, load_table),
    **dict.fromkeys((".idx", "-ubyte", ".gz"), load_idx),
}


def load(source: str) -> Dataset:
    """The data that ``source`` names, every number of it checked.

    ==================  ===========================================================================
    ``digits``          scikit-learn's 1797 handwritten digits, 8x8
    ``x.npy``           an array ``[N, ...]``, mapped
    ``x.npz``           its only array, or ``x.npz:name``; nothing is unpickled
    IDX                 MNIST's format: ``*.idx``, ``*-ubyte``, ``*.gz``, or any name with its magic
    ``x.csv, x.tsv``    a sample a line; the first may name the columns, as 0, 1, ..., D - 1 do
    a folder            of images of one size, all 8-bit grey or all RGB, subfolders too
    ==================  ===========================================================================

    Samples are flattened. Numbers of dtype uint8 are divided by 255, the digits by 16, all others
    by 1. What cannot be mapped as it lies (compressed, text, images, Fortran order) is unpacked
    into a temporary file, in ``TMPDIR``, and mapped from there.

    Raises:
        DataError: it is missing, of an unknown kind, empty, broken or cut short, or holds labels,
            text, objects, complex numbers, NaN or infinities. One line that names the place.

    >>> from aefast.data import load
    >>> load("digits").sample_shape
    (8, 8)
    """
    try:
        return _read(source)
    except OSError as error:
        raise DataError(f"{error.filename or source}: {error.strerror or error}") from error


def _read(source: str) -> Dataset:
    if source == "digits":
        return _load_digits()
    stem, colon, member = source.rpartition(".npz:")
    if colon:
        return load_npz(Path(stem + ".npz"), member, source)
    path = Path(source)
    if path.is_dir():
        return load_folder(path, source)
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
