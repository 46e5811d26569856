"""data.batches: the order is a pure function of seed and epoch, whatever gathers."""

import queue
import threading
from itertools import chain

import numpy as np
import pytest
import torch

from aefast.data import batches, load, minibatches
from aefast.data.dataset import from_array

NUMBERS = np.arange(23, dtype=np.float32)[:, None]


@pytest.fixture(params=["in memory", "mapped"])
def data(request, tmp_path):
    if request.param == "in memory":
        return from_array(NUMBERS, "x")
    np.save(tmp_path / "x.npy", NUMBERS)
    return load(str(tmp_path / "x.npy"))


def order(data, batch_size=5, **options):
    options = {"seed": 0, "epoch": 0} | options
    return [batch.flatten().tolist() for batch in batches(data, batch_size, **options)]


def flat(drawn):
    return list(chain.from_iterable(drawn))


def test_every_row_comes_once_and_the_last_batch_is_smaller(data):
    drawn = order(data)
    assert [len(batch) for batch in drawn] == [5, 5, 5, 5, 3]
    assert sorted(flat(drawn)) == NUMBERS.flatten().tolist()
    assert flat(drawn) != NUMBERS.flatten().tolist()


def test_the_order_is_the_same_whatever_else_was_drawn(data):
    first = order(data)
    torch.manual_seed(9)
    np.random.seed(9)
    assert order(data) == first


def test_the_order_does_not_depend_on_the_batch_size(data):
    assert flat(order(data, 5)) == flat(order(data, 7))


def test_seeds_and_epochs_have_orders_of_their_own(data):
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2**32, 0), (2**32 + 1, 0), (2**63 - 1, 0)]
    drawn = {str(order(data, seed=seed, epoch=epoch)) for seed, epoch in pairs}
    assert len(drawn) == len(pairs)


def test_the_order_of_a_seed_stays():
    """A resumed run depends on it: this is what every earlier version drew."""
    data = from_array(NUMBERS[:8], "x")
    assert order(data, 8, seed=1, epoch=2) == [[2, 1, 6, 4, 3, 7, 5, 0]]


@pytest.mark.parametrize("start", [0, 1, 4, 5, 6])
def test_start_leaves_out_batches_and_changes_no_other(data, start):
    assert order(data, start=start) == order(data)[start:]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A mapped dataset, read batch by batch, that notes the thread of each reading."""
    np.save(tmp_path / "x.npy", NUMBERS)
    data = load(str(tmp_path / "x.npy"))
    readers = queue.Queue()
    take = type(data).take

    def noted(self, indices):
        readers.put(threading.current_thread().name)
        return take(self, indices)

    monkeypatch.setattr(type(data), "take", noted)
    monkeypatch.setattr(minibatches, "AHEAD_BYTES", 1)
    return data, readers


def test_a_mapped_file_is_read_ahead_in_a_thread_which_ends(watched):
    data, readers = watched
    drawn = batches(data, 5, seed=0, epoch=0)
    next(drawn)
    assert [readers.get(timeout=10) for _ in range(2)] == ["aefast-data_0"] * 2
    assert readers.empty()
    drawn.close()
    assert "aefast-data_0" not in {thread.name for thread in threading.enumerate()}


def test_the_caller_has_a_batch_before_the_next_one_is_read(watched, monkeypatch):
    data, _ = watched
    gate, read = threading.Event(), []
    take = type(data).take

    def gated(self, indices):
        if read:
            gate.wait(timeout=2)
        read.append(indices)
        return take(self, indices)

    monkeypatch.setattr(type(data), "take", gated)
    drawn = batches(data, 5, seed=0, epoch=0)
    next(drawn)
    assert len(read) == 1
    gate.set()
    assert len(list(drawn)) == 4


@pytest.mark.parametrize("size", [1, 2 * 5 * 4, 2**20], ids=["one", "two", "all at once"])
def test_how_many_batches_are_read_together_changes_none(size, watched, monkeypatch):
    data, _ = watched
    monkeypatch.setattr(minibatches, "AHEAD_BYTES", size)
    assert order(data) == order(from_array(NUMBERS, "x"))


def test_an_error_of_the_reading_thread_reaches_the_caller(watched, monkeypatch):
    data, _ = watched

    def fails(self, indices):
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(data), "take", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches(data, 5, seed=0, epoch=0))


@pytest.mark.parametrize("argument", ["batch_size", "seed", "epoch", "start"])
def test_an_argument_below_its_range_is_refused_before_the_first_batch(argument, data):
    options = {"batch_size": 5, "seed": 0, "epoch": 0} | {argument: -1}
    with pytest.raises(ValueError, match=f"^{argument} is -1; it takes an int, at least"):
        batches(data, **options)
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(TypeError, match=f"^{argument} is a {type(wrong).__name__}; it takes"):
            batches(data, **options | {argument: wrong})
