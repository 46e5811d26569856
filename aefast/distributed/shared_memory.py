"""The sum of the ranks' gradients in memory that they share, where all of them run on one machine.

gloo's all-reduce uses sockets, even within a machine: with two ranks on a Zen 3 it took 6 ms of a
784-512 model's step, whose arithmetic took 33 ms.
"""

import os
import secrets
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.distributed.group import Group

# Linux's folder of files in memory.
FOLDER = Path("/dev/shm")

# The file begins with a random token: another machine may have a file of the same name. The token's
# size keeps the numbers behind it aligned.
TOKEN_BYTES = 64


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


def shared_blocks(group: Group, count: int) -> SharedBlocks | None:
    """Memory for a sum of ``count`` numbers over the ranks, which all call this; None where one of
    them cannot map it: it runs on another machine, or too little memory can be shared."""
    file_bytes = TOKEN_BYTES + 4 * count * (group.size + 1)
    path = None
    try:
        if group.rank == 0:
            path = _new_file(file_bytes)
        file = group.broadcast_object(None if path is None else (path.name, _token(path)))
        numbers = None if file is None else _mapped(FOLDER / file[0], file[1], file_bytes)
        (is_missing,) = group.any(numbers is None)  # and all have opened it: its name may go
    finally:
        if path is not None:
            path.unlink(missing_ok=True)
    if numbers is None or is_missing:
        return None
    *blocks, total = numbers.split(count)
    return SharedBlocks(group, blocks, total)


def _new_file(file_bytes: int) -> Path | None:
    """A file of a token and zeros. It is allocated at once: to run out of memory later would end
    the process with SIGBUS."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="aefast-", dir=FOLDER)
    except OSError:  # not Linux, or read-only
        return None
    try:
        os.write(descriptor, secrets.token_bytes(TOKEN_BYTES))
        os.posix_fallocate(descriptor, 0, file_bytes)
    except OSError:
        os.unlink(name)
        return None
    finally:
        os.close(descriptor)
    return Path(name)


def _token(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(TOKEN_BYTES)


def _mapped(path: Path, token: bytes, file_bytes: int) -> Tensor | None:
    """The numbers of a file, if it is the one with this token."""
    try:
        if _token(path) != token:
            return None
        floats = torch.from_file(
            str(path), shared=True, size=file_bytes // 4, dtype=torch.float32, device="cpu"
        )
    except (OSError, RuntimeError):
        return None
    return floats[TOKEN_BYTES // 4 :]
