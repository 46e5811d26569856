"""The sum of the ranks' gradients in memory that they share, where all of them run on one machine.

gloo's all-reduce uses sockets, even within a machine: with two ranks on a Zen 3 it took 6 ms of a
784-512 model's step, whose arithmetic took 33 ms.
"""

import os
import secrets
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.distributed.group import Group

# The memory begins with a random token: a process of another machine may have the same number. The
# token's size keeps the numbers behind it aligned.
TOKEN_BYTES = 64

MEMORY_INFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")  # what a container may use, of control groups' second version


class SharedBlocks(NamedTuple):
    """A block of float32 numbers of each rank, and their sum, mapped by all of the ranks.

    Attributes:
        group: the ranks.
        blocks: each rank's ``[count]``, which it alone writes.
        total: ``[count]``.
    """

    group: Group
    blocks: list[Tensor]
    total: Tensor

    @property
    def local(self) -> Tensor:
        """This rank's block."""
        return self.blocks[self.group.rank]

    def add_up(self, scalars: list[float]) -> list[float]:
        """Sum the blocks, and some scalars of each rank.

        Each number is summed by one rank alone, in the order of the ranks. The scalars' sum waits
        for the blocks of all ranks, and the second one for all parts of the total.

        Raises:
            LostRankError: a rank is gone.
        """
        sums = torch.tensor(scalars, dtype=torch.float64, device="cpu")
        self.group.all_reduce(sums).wait()
        segment = self.group.rows_of(len(self.total))
        first, *others = (block[segment] for block in self.blocks)
        total = self.total[segment].copy_(first)
        for block in others:
            total += block
        self.group.all_reduce(torch.zeros(1, dtype=torch.float32, device="cpu")).wait()
        return sums.tolist()


def shared_blocks(group: Group, count: int) -> SharedBlocks | str:
    """Memory for a sum of ``count`` numbers over the ranks, which all call this; or why there is
    none: a rank runs on another machine, or too little memory is free."""
    memory_bytes = TOKEN_BYTES + 4 * count * (group.size + 1)
    memory = _new_memory(memory_bytes) if group.rank == 0 else ""
    try:
        offer = group.broadcast_object(memory if isinstance(memory, str) else _address(memory))
        numbers = offer if isinstance(offer, str) else _mapped(*offer, memory_bytes)
        refusals = group.gather(numbers if isinstance(numbers, str) else None)
    finally:
        if not isinstance(memory, str):
            os.close(memory)  # all have mapped it: it goes with the last of them
    if isinstance(numbers, str) or any(refusals):
        rank, refusal = next((n, why) for n, why in enumerate(refusals) if why is not None)
        return f"no memory is shared with rank {rank}: {refusal}" if rank else refusal
    *blocks, total = numbers.split(count)
    return SharedBlocks(group, blocks, total)


def way_of(shared: SharedBlocks | str, group: Group) -> str:
    """How the ranks sum, for a message."""
    if group.size == 1:
        return ""
    return f" by {group.backend} ({shared})" if isinstance(shared, str) else " in shared memory"


def _new_memory(memory_bytes: int) -> int | str:
    """The file descriptor of zeros in memory, which no folder has and a killed process leaves
    nothing of; or why there is none. It is allocated at once: to run out of memory later would end
    the process with SIGBUS."""
    if not hasattr(os, "memfd_create"):
        return "memory without a file takes Linux"
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
    """The numbers of a file, if it is the one with this token; else why not."""
    try:
        if _token(path) != token:
            return "it runs on another machine"
        floats = torch.from_file(
            path, shared=True, size=memory_bytes // 4, dtype=torch.float32, device="cpu"
        )
    except (OSError, RuntimeError) as error:
        return f"it cannot open rank 0's: {str(error).splitlines()[0]}"
    return floats[TOKEN_BYTES // 4 :]
