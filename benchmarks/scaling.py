"""Step times of 1, 2 and 4 gloo processes of one thread each, beside the cost model of the page on
several devices.

    python benchmarks/scaling.py [MODEL ...]

Of each model and number of ranks, in milliseconds a step:

    together   aefast.fit in the group
    apart      the same processes at the same time, each with process_group=None: what they reach
               without a word between them, the ceiling of this machine
    predicted  apart, and what the sum of gradients takes: its memory traffic and two waits
    buckets    DistributedDataParallel, whose buckets are summed while backward is under way
    at once    the same loop with one all-reduce after backward
"""

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import aefast
from aefast.distributed.group import Group, current
from aefast.distributed.shared_memory import SharedBlocks, shared_blocks


class Training(NamedTuple):
    """What is trained.

    Attributes:
        rows: of a rank's minibatch.
        passes: over the rows of a call: as many as make a call of short steps long.
        model: makes it.
    """

    rows: int
    passes: int
    model: Callable[[], Any]


MODELS = {
    "784-512": Training(512, 1, lambda: aefast.nn.Autoencoder(784, 512)),
    "64-32": Training(512, 50, lambda: aefast.nn.Autoencoder(64, 32)),
    "top-k 256-4096": Training(128, 1, lambda: aefast.nn.TopKSparseAutoencoder(256, 4096, 32)),
}
RANKS = (1, 2, 4)
LONGEST = 600  # seconds of a rank
# A step's time is the difference of two calls: what a call takes before its first step is no part.
SHORT, LONG, REPEATS = 4, 12, 5


def median_seconds(call: Callable[[int], None], group: Group) -> float:
    """The seconds of a step, of calls that take some steps."""
    call(SHORT)
    seconds: dict[int, list[float]] = {SHORT: [], LONG: []}
    for _ in range(REPEATS):
        for steps, own in seconds.items():
            group.any(False)
            start = time.perf_counter()
            call(steps)
            group.any(False)
            own.append(time.perf_counter() - start)
    difference = statistics.median(seconds[LONG]) - statistics.median(seconds[SHORT])
    return difference / (LONG - SHORT)


def new(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = MODELS[name].model()
    return model, torch.optim.Adam(model.parameters(), fused=True)


def fit_seconds(name: str, data: Tensor, group: Group, is_apart: bool) -> float:
    model, optimizer = new(name)
    rows, passes, _ = MODELS[name]
    size = rows if is_apart else rows * group.size
    options: dict[str, Any] = {"process_group": None} if is_apart else {}

    def call(steps: int) -> None:
        part = data[: steps * size]
        aefast.fit(model, part, optimizer, batch_size=size, seed=0, epochs=passes, **options)

    return median_seconds(call, group) / passes


def loop_seconds(name: str, data: Tensor, group: Group, in_buckets: bool) -> float:
    model, optimizer = new(name)
    step = DistributedDataParallel(aefast.nn.LossModule(model), bucket_cap_mb=1)
    rows, passes, _ = MODELS[name]

    def call(steps: int) -> None:
        for x in passes * data[: steps * rows].split(rows):
            optimizer.zero_grad()
            with contextlib.nullcontext() if in_buckets else step.no_sync():
                step(x).backward()
            if not in_buckets:
                sum_at_once(model, group)
            optimizer.step()

    return median_seconds(call, group) / passes


def sum_at_once(model: Any, group: Group) -> None:
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    group.all_reduce(flat).wait()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient) / group.size)


def wait_seconds(group: Group) -> float:
    """A barrier in memory that the ranks share."""
    shared = shared_blocks(group, 16, 1)
    assert isinstance(shared, SharedBlocks), shared

    def call(steps: int) -> None:
        for _ in range(10 * steps):
            shared.barrier.wait()

    return median_seconds(call, group) / 10


def traffic_seconds(name: str, group: Group) -> float:
    """A rank's part of the sum: its share of each rank's block is read, and of the total written;
    and the optimizer reads all of the total, which others have written."""
    count = sum(parameter.numel() for parameter in new(name)[0].parameters())
    blocks = [torch.ones(count // group.size) for _ in range(group.size)]
    total, read = torch.zeros(count // group.size), torch.zeros(count)

    def call(steps: int) -> None:
        for _ in range(steps):
            total.copy_(blocks[0])
            for block in blocks[1:]:
                total.add_(block)
            read.sum()

    return median_seconds(call, group)


def measure(name: str, size: int) -> str:
    group = current()
    rows, _, model = MODELS[name]
    data = torch.rand(LONG * size * rows, model().visible)
    apart = fit_seconds(name, data, group, is_apart=True)
    together = fit_seconds(name, data, group, is_apart=False)
    extra = 0.0
    if size > 1:
        extra = traffic_seconds(name, group) + 2 * wait_seconds(group)
    buckets = loop_seconds(name, data, group, in_buckets=True)
    at_once = loop_seconds(name, data, group, in_buckets=False)
    named = {
        "together": together,
        "apart": apart,
        "predicted": apart + extra,
        "buckets": buckets,
        "at once": at_once,
    }
    figures = "  ".join(f"{key} {1e3 * value:.3f}" for key, value in named.items())
    return f"{name}, {size} ranks: {figures}"


def rank_main(name: str, size: int, rank: int, folder: str) -> None:
    """What a child does, and all that it does: its exit code says whether it could."""
    try:
        measure_as(name, size, rank, folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # without gloo's destructors, which may wait for other ranks


def measure_as(name: str, size: int, rank: int, folder: str) -> None:
    signal.alarm(LONGEST)  # where another rank has failed
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    line = measure(name, size)
    if rank == 0:
        print(line, flush=True)


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        for size in RANKS:
            with tempfile.TemporaryDirectory() as folder:
                children = []
                for rank in range(size):
                    child = os.fork()
                    if child == 0:
                        rank_main(name, size, rank, folder)
                    children.append(child)
                codes = [os.waitstatus_to_exitcode(os.waitpid(n, 0)[1]) for n in children]
            if any(codes):
                sys.exit(f"{name}, {size} ranks: they ended with the codes {codes}")


if __name__ == "__main__":
    main()
