"""data.load of damaged files: one line that says so, or numbers, but no other error."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest

from aefast.data import DataError, load

X = np.arange(24, dtype=np.uint8).reshape(4, 6)


def npy():
    file = io.BytesIO()
    np.save(file, X)
    return file.getvalue()


def npz(compression):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("x.npy", npy())
    return file.getvalue()


def idx():
    return bytes([0, 0, 8, 2]) + struct.pack(">2I", *X.shape) + X.tobytes()


FILES = {
    "plain.npy": npy(),
    "stored.npz": npz(zipfile.ZIP_STORED),
    "deflated.npz": npz(zipfile.ZIP_DEFLATED),
    "bzip2.npz": npz(zipfile.ZIP_BZIP2),
    "lzma.npz": npz(zipfile.ZIP_LZMA),
    "plain.idx": idx(),
    "packed.idx.gz": gzip.compress(idx(), mtime=0),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_are_refused_in_one_line_or_read(name, tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / name
    reasons = []
    for _ in range(100):
        damaged = bytearray(FILES[name])
        for position in random.integers(len(damaged), size=random.integers(1, 4)):
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load(str(path))
        except DataError as error:
            reasons.append(str(error))
    assert reasons
    assert not [reason for reason in reasons if "\n" in reason]


def test_a_header_of_python_that_does_not_end_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(npy().replace(b"}", b" "))
    with pytest.raises(DataError, match=r"x\.npy: no \.npy header: "):
        load(str(path))


def test_a_member_name_that_is_not_utf_8_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("é.npy", npy())
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole.replace("é".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match=r"x\.npz: a broken archive: "):
        load(f"{tmp_path}/x.npz")
