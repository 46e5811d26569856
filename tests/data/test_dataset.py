"""data.Dataset: what take returns, and which numbers are refused."""

import zlib

import numpy as np
import pytest
import torch

from aefast.data import DataError
from aefast.data import dataset as module
from aefast.data.dataset import from_array

INDICES = torch.tensor([4, 0, 4, 2])
DTYPES = ["u1", "i1", "u2", ">i2", "i4", "i8", "u8", "?", "f2", "f4", ">f4", "f8", "g"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [1, 100, 2**18])
def test_take_returns_the_rows_of_the_indices_in_order_over_the_scale(dtype, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    array = np.arange(30).reshape(5, 2, 3).astype(dtype)
    data = from_array(array, "x")
    assert data.scale == (255 if dtype == "u1" else 1)
    assert data.sample_shape == (2, 3)
    samples = data.take(INDICES)
    expected = array.reshape(5, 6)[INDICES].astype(np.float32) / np.float32(data.scale)
    assert samples.dtype == torch.float32
    assert np.array_equal(samples.numpy(), expected)


def test_take_returns_memory_of_its_own_aligned_as_torchs_is():
    array = np.zeros((5, 3), np.float32)
    copies = [from_array(array, "x").take(torch.arange(5)).add_(1) for _ in range(9)]
    assert not array.any()
    assert not [samples for samples in copies if samples.data_ptr() % 64]


@pytest.mark.parametrize("wrong", [5, -6])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_an_index_outside_the_rows_is_refused(dtype, wrong):
    with pytest.raises(IndexError, match=r"index .*out of (bounds|range)"):
        from_array(np.zeros((5, 3), dtype), "x").take(torch.tensor([0, wrong]))


def test_rows_are_a_view():
    array = np.zeros((5, 2, 3), np.float32)
    assert np.shares_memory(from_array(array, "x").rows, array)


def test_low_and_high_are_the_extremes_after_scaling(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 7)  # two rows of three at once, then one
    array = np.full((5, 3), 100, np.uint8)
    array[4, 2], array[1, 0] = 51, 204
    data = from_array(array, "x")
    assert (data.low, data.high) == (0.2, 0.8)


def test_the_checksum_is_of_all_bytes_whatever_the_chunks(monkeypatch):
    array = np.arange(15, dtype=">f4").reshape(5, 3)
    expected = zlib.crc32(array.tobytes())
    assert from_array(array, "x").checksum == expected
    monkeypatch.setattr(module, "CHUNK_BYTES", 24)  # two rows at once, then one
    assert from_array(array, "x").checksum == expected
    array[4, 2] += 1
    assert from_array(array, "x").checksum != expected


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e39, -1e39])
@pytest.mark.parametrize("index", [(0, 0), (3, 1), (4, 2)])
def test_a_number_that_is_not_a_finite_float32_is_refused_by_its_place(wrong, index, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 2 * 3 * 8)
    array = np.ones((5, 3))
    array[index] = wrong
    with pytest.raises(
        DataError,
        match=f"^x.npy: row {index[0]}, column {index[1]}, .* is {wrong}".replace("+", "."),
    ):
        from_array(array, "x.npy")


def test_the_largest_float32_is_taken():
    largest = np.finfo(np.float32).max
    assert from_array(np.array([[largest], [-largest]], np.float64), "x").high == largest
