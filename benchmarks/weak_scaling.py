"""Weak scaling of ``aefast.fit`` on a CPU: processes of one thread each, with as many rows a rank.

    python benchmarks/weak_scaling.py [--processes 1 2] [--rounds 5]

A row is a world: processes without a group, or ranks of a gloo group on this machine. Printed are
the rows a second of all its ranks, the median of rounds in which the worlds take turns, and how
many times the first world's they are. Each process takes a core: more processes than cores say
nothing.
"""

import argparse
import os
import statistics
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import aefast

VISIBLE, HIDDEN, RANK_ROWS, STEPS = 784, 512, 512, 16


def throughput(rank: int, size: int, store: str | None, results: Any) -> None:
    """One process of a world: the rows a second of all of them, put into ``results`` by rank 0."""
    torch.set_num_threads(1)
    if store is not None:
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, size), rank=rank, world_size=size
        )
    torch.manual_seed(0)
    x = torch.rand(RANK_ROWS * size * STEPS, VISIBLE)
    model = aefast.nn.Autoencoder(VISIBLE, HIDDEN)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for is_measured in (False, True):
        start = time.perf_counter()
        history = aefast.fit(model, x, optimizer, epochs=2, batch_size=RANK_ROWS * size, seed=0)
        seconds = time.perf_counter() - start
        if is_measured and rank == 0:
            results.put((2 * len(x) / seconds, history.engine))
    if store is not None:
        dist.destroy_process_group()


def measured(size: int, is_group: bool) -> tuple[float, str]:
    context = get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store") if is_group else None
        ranks = [
            context.Process(target=throughput, args=(rank, size, store, results))
            for rank in range(size)
        ]
        for process in ranks:
            process.start()
        result: tuple[float, str] = results.get()
        for process in ranks:
            process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    worlds = [(1, False), *((size, True) for size in options.processes)]
    rates: dict[tuple[int, bool], list[float]] = {world: [] for world in worlds}
    engines = {}
    for _ in range(options.rounds):
        for world in worlds:
            rate, engines[world] = measured(*world)
            rates[world].append(rate)
    print(f"{VISIBLE}-{HIDDEN}, {RANK_ROWS} rows a rank, {os.cpu_count()} cores")
    first = statistics.median(rates[worlds[0]])
    for world in worlds:
        size, is_group = world
        rate = statistics.median(rates[world])
        label = f"{size} in a group" if is_group else f"{size} without"
        print(f"{label:>14} {engines[world]:>6} {rate:>10,.0f} rows/s {rate / first:.2f}x")


if __name__ == "__main__":
    main()
