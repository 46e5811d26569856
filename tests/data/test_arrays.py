"""data.load of .npy and .npz files."""

import os
import pickle
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch

from aefast import backend
from aefast.data import DataError, dataset, load
from tests import fresh

X = np.arange(4 * 2 * 3).reshape(4, 2, 3)
FLAT = torch.arange(24.0).reshape(4, 6)


@pytest.fixture
def save(tmp_path):
    """Writes an array; the value is the source."""

    def write(array, name="x.npy", **options):
        np.save(tmp_path / name, array, **options)
        return str(tmp_path / name)

    return write


def everything(source):
    data = load(source)
    return data.take(torch.arange(len(data)))


def cut(source, size):
    with open(source, "r+b") as file:
        file.truncate(size)


def test_npy_is_mapped_and_flattened(save):
    source = save(X.astype(np.float32))
    data = load(source)
    assert isinstance(data.rows, np.memmap)
    assert (data.name, data.sample_shape, data.scale) == (source, (2, 3), 1)
    assert (data.low, data.high) == (0, 23)
    assert torch.equal(everything(source), FLAT)


def test_uint8_is_divided_by_255(save):
    data = load(save((X * 11).astype(np.uint8)))
    assert data.scale == 255
    assert data.high == 253 / 255


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3)])
def test_a_fortran_array_is_put_in_row_order(shape, save, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK_BYTES", 3 * 6 * 8)
    source = save(np.asfortranarray(X.reshape(shape)))
    data = load(source)
    assert data.rows.flags.c_contiguous
    assert isinstance(data.rows, np.memmap)
    assert torch.equal(everything(source), FLAT)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_gives_its_only_array_or_the_one_named(write, tmp_path):
    write(tmp_path / "one.npz", x=X)
    write(tmp_path / "two.npz", x=X, f=np.asfortranarray(X + 1))
    (tmp_path / "TWO.NPZ").write_bytes((tmp_path / "two.npz").read_bytes())
    assert torch.equal(everything(f"{tmp_path}/TWO.NPZ:f"), FLAT + 1)
    assert torch.equal(everything(f"{tmp_path}/one.npz"), FLAT)
    assert torch.equal(everything(f"{tmp_path}/two.npz:f"), FLAT + 1)
    with pytest.raises(DataError, match=r"two\.npz: it holds x, f; name one, as .*two\.npz:x$"):
        load(f"{tmp_path}/two.npz")
    with pytest.raises(DataError, match=r"two\.npz:y: it holds no y; it holds x, f$"):
        load(f"{tmp_path}/two.npz:y")


def test_what_is_cut_short_or_too_long_is_refused_with_both_sizes(save):
    source = save(X.astype(np.uint8))
    size = 128 + 24
    with open(source, "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=rf"too long: {size + 4} bytes, .* makes {size}$"):
        load(source)
    cut(source, size - 1)
    with pytest.raises(DataError, match=rf"cut short: {size - 1} bytes, .* makes {size}$"):
        load(source)


@pytest.mark.parametrize("size", [0, 5, 8, 60])
def test_a_file_cut_within_its_header_is_refused(save, size):
    source = save(X)
    cut(source, size)
    with pytest.raises(DataError, match=r"x\.npy: no \.npy header: EOF: reading"):
        load(source)


def test_nothing_is_unpickled(tmp_path, save):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    objects = np.array([[Bomb(), 1]], dtype=object)
    np.savez(tmp_path / "x.npz", x=objects)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Bomb()))
    for source in (save(objects), f"{tmp_path}/x.npz", f"{tmp_path}/p.npy"):
        with pytest.raises(DataError, match=r"its numbers are object|no \.npy header"):
            load(source)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "dtype", ["c8", "U3", "S3", "M8[s]", "m8[s]", "V4", [("a", "f4"), ("b", "i4")]]
)
def test_other_dtypes_are_refused(dtype, save):
    with pytest.raises(DataError, match=r"its numbers are .*; it takes bool, integers or floats$"):
        load(save(np.zeros((2, 2), dtype)))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((), "as labels"), ((5,), "as labels"), ((0, 5), "or more"), ((5, 0), "or more")],
)
def test_labels_and_nothing_at_all_are_refused(shape, reason, save):
    with pytest.raises(DataError, match=rf"x\.npy: it has shape \[.*{reason}"):
        load(save(np.zeros(shape)))


def test_a_nan_is_refused_by_its_place(save):
    array = X.astype(np.float32)
    array[2, 1, 0] = np.nan
    with pytest.raises(DataError, match=r"x\.npy: row 2, column 3, counted from 0, is nan"):
        load(save(array))


def test_an_npz_that_is_broken_is_refused(tmp_path):
    source = tmp_path / "x.npz"
    np.savez(source, x=X)
    whole = source.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(X.tobytes()) + 30] ^= 1
    encrypted = bytearray(whole)
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    for content in (b"", whole[:100], whole[:-5], bytes(flipped), bytes(encrypted)):
        source.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.npz: a broken archive: ") as caught:
            load(str(source))
        assert "\n" not in str(caught.value)


def test_an_npz_without_an_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("readme.txt", "nothing")
    with pytest.raises(DataError, match=r"x\.npz: it holds no array$"):
        load(f"{tmp_path}/x.npz")


@pytest.mark.parametrize("values", [[0, 1], [0], [1]])
def test_uint8_bits_are_not_divided(values, save):
    source = save(np.resize(np.uint8(values), (4, 3)))
    data = load(source)
    assert (data.scale, data.high) == (1, max(values))
    assert data.notes == (f"{source}: its uint8 numbers are 0 and 1, and are not divided by 255",)
    assert load(save(np.uint8([[0, 2]]))).scale == 255


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "g"])
def test_an_infinity_of_any_dtype_is_refused_by_its_place(dtype, wrong, save):
    array = np.ones((4, 3), dtype)
    array[2, 1] = wrong
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(DataError, match=f"row 2, column 1, counted from 0, is {wrong}; it takes"),
    ):
        load(save(array))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_a_sparse_matrix_is_called_one(kind, tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(tmp_path / "x.npz", sparse.eye(4, format=kind))
    for source in (f"{tmp_path}/x.npz", f"{tmp_path}/x.npz:data"):
        with pytest.raises(DataError, match=r"it holds a sparse matrix, .*toarray\(\)\)$"):
            load(source)


def header(shape, dtype="|u1"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\2\0" + struct.pack("<I", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (f"({'1,' * 33})", "it has 33 dimensions; it takes 32 at most"),
        (f"(2, 0x{'f' * 4000})", "a number of its shape is beyond int64"),
        ("(2, -1)", r"it has shape \[2, -1\]"),
        ("(True, 2)", r"shape is not valid: \(True, 2\)$"),
        ("-" * 9000 + "1", "no .npy header: "),
        ("(2**60, 2**60)", "no .npy header: "),
        (f"({2**60}, {2**60})", "cut short: "),
    ],
)
def test_a_shape_that_no_array_has_is_refused(shape, message, tmp_path):
    (tmp_path / "x.npy").write_bytes(header(shape))
    with pytest.raises(DataError, match=message):
        load(f"{tmp_path}/x.npy")


@pytest.mark.parametrize("dtype", ["|,1", "", "i9999999999999999999", "(,", "<f4, <f4", "8"])
def test_a_dtype_that_no_array_of_numbers_has_is_refused(dtype, tmp_path):
    (tmp_path / "x.npy").write_bytes(header("(2, 3)", dtype) + bytes(6))
    with pytest.raises(DataError, match=r"x\.npy: (no \.npy header: |its numbers are )"):
        load(f"{tmp_path}/x.npy")


def test_a_header_that_python_2_wrote_is_read_without_a_warning(tmp_path):
    (tmp_path / "x.npy").write_bytes(header("(1L, 2L)") + b"\2\3")
    with warnings.catch_warnings(action="error"):
        assert load(f"{tmp_path}/x.npy").rows.tolist() == [[2, 3]]


def test_a_file_that_is_cut_while_it_is_read_is_no_crash(save):
    source = save(np.ones((3, 4096), np.float64))
    data = load(source)
    cut(source, 9000)
    with pytest.raises(DataError, match=r"x\.npy: it was cut to 9000 bytes while it was in use$"):
        data.take(torch.tensor([2]))
    with pytest.raises(DataError, match="it was cut to 9000 bytes"):
        dataset.from_array(data.rows, source)


CUT = """
import os, sys, threading
import numpy as np, torch
import aefast
from aefast.data import DataError, load
from aefast.data.dataset import reading

path = sys.argv[0]
data = load(path)
cut = lambda: os.truncate(path, 9000)
try:
    {reading}
except DataError as error:
    print(error)
"""
READINGS = {
    "rows": """
    with reading(data.rows, "x"):
        cut()
        assert data.rows[-1].sum() == 0""",
    "a view, once the file has its size again": """
    with reading(np.asarray(data.rows)[3:], "x"):
        cut()
        data.rows[-1].sum()
        os.truncate(path, 4000128)""",
    "a training": """
    model = aefast.nn.Autoencoder(8, 2)
    before = model.encoder[0].weight.detach().clone()
    def cut_once_a_step_was_taken():
        while torch.equal(model.encoder[0].weight.detach(), before):
            pass
        cut()
    threading.Thread(target=cut_once_a_step_was_taken).start()
    aefast.fit(model, data, torch.optim.SGD(model.parameters(), 1e-3), epochs=10**6, seed=0)""",
    "an estimator": """
    X = np.load(path, mmap_mode="r")
    from aefast.estimators import conversion
    @conversion.in_default_modes
    def fit(self, X):
        cut()
        return X[-1].sum()
    fit(None, X)""",
}


@pytest.mark.skipif(
    sys.platform != "linux" or backend.unavailable("cpp", "cpu") is not None,
    reason="needs the C++ extension, on Linux",
)
@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(reading, marks=[pytest.mark.slow] * (name != "a training"), id=name)
        for name, reading in READINGS.items()
    ],
)
def test_a_file_that_is_cut_under_a_reader_is_an_error_and_no_signal(reading, save):
    source = save(np.ones((125000, 8), np.float32))
    program = f"import sys; sys.argv[0] = {source!r}\n" + CUT.format(reading=reading.strip())
    done = fresh.run(program, dict(os.environ))
    assert (done.returncode, done.stderr) == (0, "")
    assert "it was cut" in done.stdout


def test_a_member_name_is_cut_and_escaped(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        for name in ("\x1b[2J" + "a" * 5000, "b"):
            file.writestr(f"{name}.npy", b"")
    with pytest.raises(DataError) as caught:
        load(f"{tmp_path}/x.npz")
    assert "\\x1b[2Jaaa" in str(caught.value)
    assert len(str(caught.value)) < 500
