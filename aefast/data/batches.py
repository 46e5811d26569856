"""Shuffled minibatches."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from aefast.data.dataset import Dataset


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

    Rows of a mapped file, or on their way to a GPU, are gathered in a thread, a batch ahead.

    Args:
        dataset: what to draw from.
        batch_size: rows a batch, at least 1.
        seed: at least 0.
        epoch: at least 0.
        start: how many batches to leave out, to go on in the middle of an epoch.
        device: where the batches go.

    Raises:
        ValueError: an argument is outside its range.

    >>> from aefast.data import batches, load
    >>> [len(rows) for rows in batches(load("digits"), 500, seed=0, epoch=0)]
    [500, 500, 500, 297]
    >>> [len(rows) for rows in batches(load("digits"), 500, seed=0, epoch=0, start=2)]
    [500, 297]
    """
    limits = {"batch_size": (batch_size, 1), "seed": (seed, 0), "epoch": (epoch, 0)}
    for argument, (value, low) in (limits | {"start": (start, 0)}).items():
        if value < low:
            raise ValueError(f"{argument} is {value}; it takes an int, at least {low}")
    chosen = _order(len(dataset), seed, epoch).split(batch_size)[start:]
    if torch.device(device).type == "cuda":
        gathered = _ahead(lambda indices: dataset.take(indices).pin_memory(), chosen)
        return (rows.to(device, non_blocking=True) for rows in gathered)
    if isinstance(dataset.rows, np.memmap):
        return _ahead(dataset.take, chosen)
    return map(dataset.take, chosen)


def _order(count: int, seed: int, epoch: int) -> Tensor:
    state = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1, np.uint64)
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(state[0])))


def _ahead(gather: Callable[[Tensor], Tensor], chosen: Iterable[Tensor]) -> Iterator[Tensor]:
    """``map``, with the next one under way in a thread while the caller has the last one."""
    with ThreadPoolExecutor(1, thread_name_prefix="aefast-data") as thread:
        coming = None
        for indices in chosen:
            ready, coming = coming, thread.submit(gather, indices)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()
