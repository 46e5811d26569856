"""A folder of shards: what is read, in which order, and what is refused."""

import json
import os
import struct

import numpy as np
import pytest
import torch

from aefast.data import DataError, batches, load
from aefast.data.minibatches import buffered_order
from aefast.data.shards import OPEN_FILES

safetensors = pytest.importorskip("safetensors.torch")

D = 6


@pytest.fixture
def folder(tmp_path):
    """Three shards of 10, 8 and 7 rows, in three dtypes, and their rows as float32."""
    torch.manual_seed(0)
    parts = torch.randn(10, D), torch.randn(2, 4, D).bfloat16(), torch.randn(7, D).half()
    np.save(tmp_path / "0.npy", parts[0].numpy())
    tensors = {"activations": parts[1], "tokens": torch.arange(8).reshape(2, 4)}
    safetensors.save_file(tensors, tmp_path / "1.safetensors", {"model": "of a test"})
    np.save(tmp_path / "2.npy", parts[2].numpy())
    return tmp_path, torch.cat([part.float().reshape(-1, D) for part in parts])


def test_the_rows_of_all_shards_are_one_dataset(folder):
    path, rows = folder
    data = load(path)
    assert (len(data), data.sample_shape, data.scale) == (25, (D,), 1.0)
    assert (data.low, data.high) == (rows.min().item(), rows.max().item())
    order = torch.randperm(25)
    assert torch.equal(data.take(order), rows[order])
    assert data.take(order[:0]).shape == (0, D)
    with pytest.raises(IndexError):
        data.take(torch.tensor([25]))
    one = load(path / "1.safetensors")
    assert torch.equal(one.take(torch.arange(8)), rows[10:18])


def test_a_changed_number_is_another_checksum(folder):
    path, rows = folder
    before = load(path).checksum
    assert load(path).checksum == before
    changed = rows[:10].clone()
    changed[3, 2] += 1
    np.save(path / "0.npy", changed.numpy())
    assert load(path).checksum != before


def test_an_epoch_takes_each_row_once_and_goes_on_anywhere(folder):
    path, rows = folder
    data = load(path)
    whole = list(batches(data, 4, seed=3, epoch=1))
    assert torch.equal(torch.cat(whole).sort(0).values, rows.sort(0).values)
    rest = list(batches(data, 4, seed=3, epoch=1, start=2))
    assert all(map(torch.equal, rest, whole[2:]))
    assert not torch.equal(torch.cat(list(batches(data, 4, seed=3, epoch=2))), torch.cat(whole))


def test_a_buffer_shuffles_blocks_and_the_rows_of_some_of_them():
    for count in (1, 10, 1003):
        order = buffered_order(count, 10, 8, seed=0, epoch=0)
        assert torch.equal(order.sort().values, torch.arange(count))
    order = buffered_order(1000, 10, 8, seed=0, epoch=0)
    windows = order[:800].split(80)
    assert all(len({row // 10 for row in window.tolist()}) == 8 for window in windows)
    # Blocks come from anywhere, and no row stays beside the next one but by chance.
    assert order[:80].max() - order[:80].min() > 500
    assert ((order[1:] - order[:-1]) == 1).sum() < 60


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "3.npy",
            lambda path: np.save(path, np.zeros((2, D + 1), np.float32)),
            r"3\.npy: its rows have 7 numbers, where those of .*0\.npy have 6; it takes shards of",
        ),
        ("3.npy", lambda path: np.save(path, np.zeros(D, np.float32)), r"it has shape \[6\]"),
        ("3.npy", lambda path: np.save(path, np.zeros((2, D))), r"its numbers are float64"),
        (
            "3.npy",
            lambda path: np.save(path, np.full((2, D), np.inf, np.float16)),
            r"3\.npy: row 0, column 0, counted from 0, is inf",
        ),
        ("2.npy", lambda path: path.write_bytes(path.read_bytes()[:-5]), "2.npy: cut short"),
        ("2.npy", lambda path: path.write_bytes(path.read_bytes() + b"x"), "2.npy: too long"),
        (
            "1.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:-5]),
            "1.safetensors: cut short",
        ),
        (
            "1.safetensors",
            lambda path: path.write_bytes(path.read_bytes()[:40]),
            "1.safetensors: no safetensors header, or cut short",
        ),
        ("1.safetensors", lambda path: path.write_bytes(b""), "no safetensors header"),
        (
            "1.safetensors",
            lambda path: safetensors.save_file(
                {"a": torch.zeros(2, D), "b": torch.zeros(2, D)}, path
            ),
            r"rows are a, b; a shard has one",
        ),
    ],
)
def test_what_is_no_shard_is_one_line(folder, name, write, message):
    path, _ = folder
    write(path / name)
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, D], "data_offsets": [0, 40]},
        {"dtype": "F32", "shape": [2, -D], "data_offsets": [0, 48]},
        {"dtype": "F32", "shape": [2, D], "data_offsets": [0, 48, 50]},
        {"dtype": "F32", "shape": [2**61, D], "data_offsets": [0, 2**61 * 24]},
        {"dtype": "F32", "shape": [2, D]},
        {"dtype": 3, "shape": [2, D], "data_offsets": [0, 48]},
        None,
        [],
    ],
)
def test_a_header_that_lies_is_one_line(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "0.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(48))
    with pytest.raises(DataError, match=r"0\.safetensors: "):
        load(tmp_path)


def test_a_shard_that_is_cut_while_in_use_is_named(folder):
    path, _ = folder
    data = load(path)
    (path / "2.npy").write_bytes((path / "2.npy").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"2\.npy: it was cut to"):
        data.take(torch.tensor([24]))


def test_more_shards_than_a_process_may_open(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    parts = [np.full((2, D), number, np.float32) for number in range(OPEN_FILES + 80)]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number:03}.npy", part)
    descriptors = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors + OPEN_FILES + 20, limits[1]))
    try:
        data = load(tmp_path)
        order = torch.randperm(len(data))
        assert torch.equal(data.take(order), torch.from_numpy(np.concatenate(parts))[order])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    np.save(tmp_path / "000.npy", parts[1])  # its map was closed meanwhile
    for first in range(2, len(data), 2):
        data.take(torch.tensor([first]))
    with pytest.raises(DataError, match=r"000\.npy: it was changed while it was in use"):
        data.take(torch.tensor([0]))
