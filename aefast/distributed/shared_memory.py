"""The sum of the ranks' gradients in memory that they share, where all of them run on one machine.

gloo's all-reduce uses sockets, even within a machine: with two ranks on a Zen 3 it took 6 ms of a
784-512 model's step, whose arithmetic took 33 ms.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from aefast import backend
from aefast.distributed.agreement import agree
from aefast.distributed.barrier import COUNT_STRIDE, Barrier
from aefast.distributed.group import Group

Result = TypeVar("Result")

# The memory begins with a random token: a process of another machine may have the same number.
TOKEN_BYTES = 64

# What each rank writes begins in a cache line of its own.
LINE_BYTES = 64

MEMORY_INFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")  # what a container may use, of control groups' second version


class SharedBlocks(NamedTuple):
    """A block of float32 numbers of each rank, and their sum, mapped by all of the ranks.

    Attributes:
        barrier: of the ranks.
        scalars: numbers that each rank writes, float64 ``[size, S]``.
        blocks: each rank's ``[count]``, which it alone writes.
        total: ``[count]``.
    """

    barrier: Barrier
    scalars: Tensor
    blocks: list[Tensor]
    total: Tensor

    @property
    def local(self) -> Tensor:
        """This rank's block."""
        return self.blocks[self.barrier.group.rank]

    def add_up(self, scalars: list[float], weights: Sequence[float]) -> list[float]:
        """Sum the blocks, each times its rank's weight, and at most S scalars of each rank.

        Each number is summed by one rank alone, in the order of the ranks: at the first barrier the
        blocks of all ranks are ready, and at the second one all parts of the total.

        Raises:
            LostRankError: a rank is gone.
        """
        group, count = self.barrier.group, len(scalars)
        self.scalars[group.rank, :count] = torch.tensor(scalars, dtype=torch.float64, device="cpu")
        self.barrier.wait()
        sums: list[float] = self.scalars[:, :count].sum(0).tolist()
        segment = group.rows_of(len(self.total))
        first, *others = (block[segment] for block in self.blocks)
        total = torch.mul(first, weights[0], out=self.total[segment])
        for block, weight in zip(others, weights[1:], strict=True):
            total.add_(block, alpha=weight)
        self.barrier.wait()
        return sums


def shared_blocks(group: Group, count: int, scalars: int) -> SharedBlocks | str:
    """Memory for a sum of ``count`` numbers and some scalars over the ranks, which all call this;
    or why there is none: a rank runs on another machine, or too little memory is free.

    Raises:
        DisagreementError: the ranks' sizes differ, and so would their layouts of the memory.
    """
    agree(group, {"the size of the sum": [count, scalars]})
    layout = Layout(group.size, count, scalars)
    memory = _or_refusal(lambda: _new_memory(layout.end)) if group.rank == 0 else ""
    try:
        address = memory if isinstance(memory, str) else _or_refusal(lambda: _address(memory))
        processes = group.gather((os.getpid(), address))
        offer, pids = processes[0][1], [pid for pid, _ in processes]
        blocks = (
            offer
            if isinstance(offer, str)
            else _or_refusal(lambda: _joined(offer, layout, group, pids))
        )
        refusals = group.gather(blocks if isinstance(blocks, str) else None)
    finally:
        if not isinstance(memory, str):
            os.close(memory)  # all have mapped it: it goes with the last of them
    if isinstance(blocks, str) or any(refusals):
        rank, refusal = next((n, why) for n, why in enumerate(refusals) if why is not None)
        return f"no memory is shared with rank {rank}: {refusal}" if rank else refusal
    return blocks


def _or_refusal(action: Callable[[], Result]) -> Result | str:
    """What an action gives, or its error as a reason: the other ranks wait for this one."""
    try:
        return action()
    except Exception as error:
        return f"memory cannot be shared: {error}".splitlines()[0]


def _joined(
    offer: tuple[str, bytes], layout: "Layout", group: Group, pids: list[int]
) -> SharedBlocks | str:
    """The parts of rank 0's memory, which this rank maps; or why it does not."""
    mapped = _unsupported() or _mapped(*offer, layout.end)
    return mapped if isinstance(mapped, str) else _laid_out(mapped, layout, group, pids)


def _unsupported() -> str | None:
    """What this rank lacks to share memory; None if nothing."""
    if not (hasattr(os, "memfd_create") and hasattr(os, "pidfd_open")):
        return "memory without a file, and watching other processes, take Linux"
    return backend.unavailable("cpp", "cpu")  # whose barrier it is


class Layout:
    """Where each part of the shared memory begins, in bytes.

    Args:
        ranks: how many.
        count: the numbers of a block.
        scalars: those of each rank.
    """

    def __init__(self, ranks: int, count: int, scalars: int) -> None:
        self.ranks, self.count = ranks, count
        self.scalars = _rounded_up(8 * scalars) // 8
        self.first_count = TOKEN_BYTES
        self.first_scalar = self.first_count + ranks * 8 * COUNT_STRIDE
        self.first_block = self.first_scalar + ranks * 8 * self.scalars
        self.block_bytes = _rounded_up(4 * count)
        self.end = self.first_block + (ranks + 1) * self.block_bytes


def _rounded_up(size: int) -> int:
    return -(-size // LINE_BYTES) * LINE_BYTES


def _laid_out(memory: Tensor, layout: Layout, group: Group, pids: list[int]) -> SharedBlocks | str:
    """The parts of shared memory, uint8; or why this rank cannot wait for the others."""
    counts = memory[layout.first_count : layout.first_scalar].view(torch.int64)
    scalars = memory[layout.first_scalar : layout.first_block].view(torch.float64)
    blocks = memory[layout.first_block :].view(torch.float32).view(layout.ranks + 1, -1)
    *own, total = blocks[:, : layout.count].unbind(0)
    try:
        barrier = Barrier(group, counts.view(layout.ranks, COUNT_STRIDE), pids)
    except OSError as error:
        return f"it cannot watch the other ranks' processes: {error.strerror}"
    return SharedBlocks(barrier, scalars.view(layout.ranks, -1), own, total)


def way_of(shared: SharedBlocks | str, group: Group) -> str:
    """How the ranks sum, for a message."""
    if group.size == 1:
        return ""
    return f" by {group.backend} ({shared})" if isinstance(shared, str) else " in shared memory"


def _new_memory(memory_bytes: int) -> int | str:
    """The file descriptor of zeros in memory, which no folder has and a killed process leaves
    nothing of; or why there is none. It is allocated at once: to run out of memory later would end
    the process with SIGBUS."""
    unsupported = _unsupported()
    if unsupported is not None:
        return unsupported
    free_bytes = _free_bytes()
    if memory_bytes > free_bytes / 2:
        return (
            f"the sum takes {memory_bytes / 2**30:.1f} GiB, more than half of the "
            f"{free_bytes / 2**30:.1f} GiB that are free"
        )
    descriptor = os.memfd_create("aefast-gradients")
    try:
        os.write(descriptor, secrets.token_bytes(TOKEN_BYTES))
        os.posix_fallocate(descriptor, 0, memory_bytes)
    except OSError as error:
        os.close(descriptor)
        return f"{memory_bytes / 2**30:.1f} GiB of shared memory: {error.strerror}"
    return descriptor


def _free_bytes() -> float:
    """The memory that this machine and this container have left."""
    lines = MEMORY_INFO.read_text().splitlines()
    kibibytes = {name: number.split()[0] for name, _, number in (x.partition(":") for x in lines)}
    if "MemAvailable" not in kibibytes:
        raise OSError(f"{MEMORY_INFO} has no MemAvailable")
    free_bytes = 1024.0 * int(kibibytes["MemAvailable"])
    try:
        limit, used = ((CONTAINER / f"memory.{n}").read_text() for n in ("max", "current"))
        return min(free_bytes, float(limit) - float(used))
    except (OSError, ValueError):  # no container, or one without a limit: "max"
        return free_bytes


def _address(descriptor: int) -> tuple[str, bytes]:
    """How other processes of the machine open a file of this one, and the token in it."""
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    return path, _token(path)


def _token(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(TOKEN_BYTES)


def _mapped(path: str, token: bytes, memory_bytes: int) -> Tensor | str:
    """The bytes of a file, uint8, if it is the one with this token; else why not."""
    try:
        if _token(path) != token:
            return "it runs on another machine"
        memory = torch.from_file(
            path, shared=True, size=memory_bytes, dtype=torch.uint8, device="cpu"
        )
    except (OSError, RuntimeError) as error:
        return f"it cannot open rank 0's: {str(error).splitlines()[0]}"
    return memory
