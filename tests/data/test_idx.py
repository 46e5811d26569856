"""data.load of IDX files, the format that MNIST comes in."""

import gzip
import struct

import numpy as np
import pytest
import torch

from aefast.data import DataError, load

X = np.arange(4 * 2 * 3).reshape(4, 2, 3)
CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}
NAMES = ["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte", "x.idx", "x.gz", "x-idx3-ubyte.GZ"]


def idx(array, code):
    """The bytes of the file, after the format's description."""
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
    return str(path)


UBYTES = idx(X.astype("u1"), 0x08)


@pytest.mark.parametrize("name", [*NAMES, "without-a-known-ending"])
@pytest.mark.parametrize("dtype", CODES)
def test_idx_is_read_under_any_of_its_names(dtype, name, tmp_path):
    data = load(write(tmp_path / name, idx(X.astype(dtype), CODES[dtype])))
    assert isinstance(data.rows, np.memmap)
    assert data.sample_shape == (2, 3)
    assert data.scale == (255 if dtype == "u1" else 1)
    expected = torch.arange(24.0).reshape(4, 6) / data.scale
    assert torch.equal(data.take(torch.arange(4)), expected)


@pytest.mark.parametrize("name", ["x.idx", "x.gz"])
def test_what_is_cut_short_or_too_long_is_refused_with_both_sizes(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name}: cut short: 39 bytes, .* makes 40$"):
        load(write(tmp_path / name, UBYTES[:-1]))
    with pytest.raises(DataError, match=rf"{name}: too long: 41 bytes, .* makes 40$"):
        load(write(tmp_path / name, UBYTES + b"!"))
    with pytest.raises(DataError, match=rf"{name}: cut short: 14 bytes, .* alone takes 16$"):
        load(write(tmp_path / name, UBYTES[:14]))


@pytest.mark.parametrize("name", ["x.idx", "x.gz"])
@pytest.mark.parametrize("start", [b"", b"\0\0\x08", b"\0\1\x08\3", b"\0\0\x07\3", b"PNG!"])
def test_a_wrong_magic_is_refused(start, name, tmp_path):
    magic = start.hex(" ") or "nothing"
    with pytest.raises(DataError, match=rf"{name}: not an IDX file: it begins with {magic}, "):
        load(write(tmp_path / name, start if len(start) < 4 else start + UBYTES[4:]))


def test_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"it has shape \[4\], as labels have; it takes samples"):
        load(write(tmp_path / "labels-idx1-ubyte", idx(np.zeros(4, "u1"), 0x08)))


def test_a_broken_gz_is_refused(tmp_path):
    whole = gzip.compress(UBYTES)
    flipped = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    garbled = whole[:10] + b"\xff" * 30
    for content in (whole[:-9], whole[:12], flipped, garbled, UBYTES):
        (tmp_path / "x.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.gz: a broken archive: "):
            load(f"{tmp_path}/x.gz")


def test_a_nan_is_refused_by_its_place(tmp_path):
    array = X.astype(">f4")
    array[3, 1, 2] = np.nan
    with pytest.raises(DataError, match="row 3, column 5, counted from 0, is nan"):
        load(write(tmp_path / "x.idx", idx(array, 0x0D)))
