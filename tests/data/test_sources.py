"""data.load: which sources there are, and what no source can be."""

import errno
import os
import sys
import tempfile

import numpy as np
import pytest
import torch

from aefast.data import DataError, load


def test_digits_are_scikit_learns_over_16():
    datasets = pytest.importorskip("sklearn.datasets")
    data = load("digits")
    assert (data.sample_shape, data.scale, data.low, data.high) == ((8, 8), 16, 0, 1)
    expected = torch.from_numpy(datasets.load_digits().data).float() / 16
    assert torch.equal(data.take(torch.arange(1797)), expected)


@pytest.mark.parametrize(
    ("source", "module", "extra"),
    [("digits", "sklearn", "estimators"), ("folder", "PIL", "train")],
)
def test_a_missing_library_is_named_with_its_extra(source, module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.png").touch()
    source = source if source == "digits" else str(tmp_path)
    with pytest.raises(DataError, match=rf"pip install 'aefast\[{extra}\]'$"):
        load(source)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.npz:a", "x.csv", "x.idx", "x.gz", "x", ""])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"No such file or directory$") as caught:
        load(f"{tmp_path}/missing/{name}")
    assert str(caught.value).startswith(f"{tmp_path}/missing")


@pytest.mark.parametrize("source", ["", "a\0b.csv", b"a\0b.csv"])
def test_what_names_no_file_is_refused(source):
    with pytest.raises(
        DataError, match=r"source is '.*'; it takes the name of a file or a folder$"
    ):
        load(source)


def test_an_unknown_kind_of_file_is_refused_with_those_that_are_taken(tmp_path):
    for content in (b"", b"text", b"\0\0\xff\3"):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.pkl: an unknown kind of file; it takes digits, "):
            load(f"{tmp_path}/x.pkl")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
@pytest.mark.parametrize("name", ["x.npy", "x.csv", "x.idx", "x"])
def test_a_file_without_permission_is_named(name, tmp_path):
    (tmp_path / name).touch(mode=0)
    with pytest.raises(DataError, match=f"{name}: Permission denied$"):
        load(f"{tmp_path}/{name}")


def test_an_error_of_the_system_is_one_line(tmp_path):
    (tmp_path / "x.npy").symlink_to(tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"x\.npy: Too many levels of symbolic links$"):
        load(f"{tmp_path}/x.npy")


def test_a_full_disk_is_named_with_the_way_out(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    (tmp_path / "x.csv").write_text("1,2\n")
    with pytest.raises(DataError, match=r"x\.csv: .* has no space to unpack it; TMPDIR names"):
        load(f"{tmp_path}/x.csv")


def test_what_was_unpacked_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)))
    data = load(f"{tmp_path}/x.npz")
    assert data.high == 1
    del data
    assert not list((tmp_path / "temporary").iterdir())
