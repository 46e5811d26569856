"""Shuffled minibatches."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aefast.data.dataset import Dataset
from aefast.data.pairs import Pair, PairedRows
from aefast.data.shards import ShardedDataset
from aefast.data.tensor_rows import TensorRows

AHEAD_BYTES = 2**20

# Rows of shards are shuffled in a buffer that holds blocks of adjacent rows, drawn from anywhere.
BLOCK_BYTES = 2**22
BUFFER_BLOCKS = 64


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[Tensor]:
    """One epoch's shuffled minibatches, float32 ``[B, D]``; the last may be smaller.

    The order is ``torch.randperm`` from a generator that is seeded with the first 64-bit word of
    NumPy's ``SeedSequence(seed, spawn_key=(epoch,))``: a pure function of ``(seed, epoch)``.

    Of a folder of shards it is :func:`buffered_order`, another one of ``(seed, epoch)``.

    Rows of a mapped file, or on their way to a GPU, are gathered in a thread, ahead of the caller.

    Args:
        dataset: what to draw from.
        batch_size: rows a batch, at least 1.
        seed: at least 0.
        epoch: at least 0.
        start: how many batches to leave out, to go on in the middle of an epoch.
        device: where the batches go.

    Raises:
        TypeError: a number is no int.
        ValueError: an argument is outside its range.

    >>> from aefast.data import batches, load
    >>> [len(rows) for rows in batches(load("digits"), 500, seed=0, epoch=0)]
    [500, 500, 500, 297]
    >>> [len(rows) for rows in batches(load("digits"), 500, seed=0, epoch=0, start=2)]
    [500, 297]
    """
    limits = {"batch_size": (batch_size, 1), "seed": (seed, 0), "epoch": (epoch, 0)}
    for argument, (value, low) in (limits | {"start": (start, 0)}).items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{argument} is a {type(value).__name__}; it takes an int")
        if value < low:
            raise ValueError(f"{argument} is {value}; it takes an int, at least {low}")
    order = order_of(dataset, len(dataset), seed, epoch)
    rest = order[start * batch_size :]
    return gathered(dataset, rest.split(batch_size) if len(rest) else (), device)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch takes ``count`` rows, int64: see :func:`batches`."""
    generator = _generator(seed, epoch)
    return torch.randperm(count, generator=generator, dtype=torch.int64, device="cpu")


def _generator(seed: int, epoch: int) -> torch.Generator:
    state = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def order_of(dataset: object, count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch takes ``count`` rows of a dataset, int64: pairs as their
    inputs."""
    if isinstance(dataset, PairedRows):
        return order_of(dataset.inputs, count, seed, epoch)
    if not isinstance(dataset, ShardedDataset):
        return epoch_order(count, seed, epoch)
    block = max(1, BLOCK_BYTES // (4 * dataset.rows.shape[1]))
    return buffered_order(count, block, BUFFER_BLOCKS, seed, epoch)


def buffered_order(count: int, block: int, blocks: int, seed: int, epoch: int) -> Tensor:
    """The order of ``count`` rows from a shuffle buffer, int64.

    Blocks of ``block`` adjacent rows come in a shuffled order, and the rows of each ``blocks``
    blocks that come one after the other are shuffled together: what is read at a time lies
    together on a disk. It is a function of its arguments alone, so that an epoch goes on anywhere.

    >>> from aefast.data.minibatches import buffered_order
    >>> order = buffered_order(10, 2, 2, seed=0, epoch=0)
    >>> order.sort().values.tolist() == list(range(10)), len({n // 2 for n in order[:4].tolist()})
    (True, 2)
    """
    generator = _generator(seed, epoch)
    order = torch.empty(count, dtype=torch.int64, device="cpu")
    options: Any = {"dtype": torch.int64, "device": "cpu"}
    drawn = torch.randperm(-(-count // block), generator=generator, **options)
    filled = 0
    for numbers in drawn.split(blocks):
        starts = (block * numbers).tolist()
        rows = torch.cat([torch.arange(s, min(s + block, count), **options) for s in starts])
        shuffled = rows[torch.randperm(len(rows), generator=generator, **options)]
        order[filled : filled + len(rows)] = shuffled
        filled += len(rows)
    return order


def gathered(
    dataset: Dataset, batch_indices: Sequence[Tensor], device: str | torch.device = "cpu"
) -> Iterator[Tensor]:
    """Minibatches of the rows that ``batch_indices`` name, float32 ``[B, D]`` on ``device``."""
    largest = max([1, *map(len, batch_indices)])
    together = max(1, AHEAD_BYTES // (4 * largest * dataset.rows.shape[1]))
    if torch.device(device).type == "cuda":
        pinned = _ahead(lambda indices: dataset.take(indices).pin_memory(), batch_indices, together)
        return (rows.to(device, non_blocking=True) for rows in pinned)
    if isinstance(dataset.rows, np.memmap) or isinstance(dataset, ShardedDataset):
        return _ahead(dataset.take, batch_indices, together)
    return map(dataset.take, batch_indices)


def minibatches_of(
    dataset: Dataset | TensorRows | PairedRows,
    batch_indices: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor | Pair]:
    """Minibatches of the rows, or pairs, that ``batch_indices`` name as a model takes them,
    ``[B, D]``."""
    if isinstance(dataset, PairedRows):
        sides = (dataset.inputs, dataset.targets)
        return map(Pair, *(_rows_of(side, batch_indices, device, dtype) for side in sides))
    return _rows_of(dataset, batch_indices, device, dtype)


def _rows_of(
    dataset: Dataset | TensorRows,
    batch_indices: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    if isinstance(dataset, TensorRows):
        rows: Iterator[Tensor] = map(dataset.take, batch_indices)
    else:
        rows = gathered(dataset, batch_indices, device)
    return (x.to(device, dtype) for x in rows)


def _ahead(
    gather: Callable[[Tensor], Tensor], batch_indices: Sequence[Tensor], together: int
) -> Iterator[Tensor]:
    """``map`` in a thread that works ahead while the caller uses the last results.

    Small batches go together: each wait for the thread costs 20 us.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="aefast-data") as thread:
        ready: list[Tensor] = []
        for first in range(0, len(batch_indices), together):
            coming = thread.submit(list, map(gather, batch_indices[first : first + together]))
            yield from ready
            ready = coming.result()
        yield from ready
