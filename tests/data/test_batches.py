"""data.batches: the order is a pure function of seed and epoch, whatever gathers."""

import threading

import numpy as np
import pytest
import torch

from aefast.data import batches, load
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


def test_every_row_comes_once_and_the_last_batch_is_smaller(data):
    drawn = order(data)
    assert [len(batch) for batch in drawn] == [5, 5, 5, 5, 3]
    assert sorted(sum(drawn, [])) == NUMBERS.flatten().tolist()
    assert sum(drawn, []) != NUMBERS.flatten().tolist()


def test_the_order_is_the_same_whatever_else_was_drawn(data):
    first = order(data)
    torch.manual_seed(9)
    np.random.seed(9)
    assert order(data) == first


def test_the_order_does_not_depend_on_the_batch_size(data):
    assert sum(order(data, 5), []) == sum(order(data, 7), [])


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


def test_a_mapped_file_is_read_in_a_thread_of_its_own_which_ends(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", NUMBERS)
    data = load(str(tmp_path / "x.npy"))
    gatherers = set()
    take = type(data).take

    def watched(self, indices):
        gatherers.add(threading.current_thread().name)
        return take(self, indices)

    monkeypatch.setattr(type(data), "take", watched)
    drawn = batches(data, 5, seed=0, epoch=0)
    next(drawn)
    drawn.close()
    assert gatherers == {"aefast-data_0"}
    assert "aefast-data_0" not in {thread.name for thread in threading.enumerate()}


def test_the_next_batch_of_a_mapped_file_is_gathered_while_the_caller_has_this_one(
    tmp_path, monkeypatch
):
    np.save(tmp_path / "x.npy", NUMBERS)
    data = load(str(tmp_path / "x.npy"))
    begun = threading.Semaphore(0)
    take = type(data).take

    def watched(self, indices):
        begun.release()
        return take(self, indices)

    monkeypatch.setattr(type(data), "take", watched)
    drawn = batches(data, 5, seed=0, epoch=0)
    next(drawn)
    assert begun.acquire(timeout=10)
    assert begun.acquire(timeout=10)


def test_an_error_of_the_gathering_thread_reaches_the_caller(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", NUMBERS)
    data = load(str(tmp_path / "x.npy"))

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
