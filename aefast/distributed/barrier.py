"""A barrier of the ranks of one machine, in memory that they share.

gloo's smallest all-reduce takes 0.2 ms, through sockets and another thread; this one takes
microseconds.
"""

import os
import select
import time
import weakref

from torch import Tensor

from aefast import backend
from aefast.distributed.group import Group, LateRankError, LostRankError

# A count of each rank lies in a cache line of its own: so many int64 numbers.
COUNT_STRIDE = 8

# How often a rank that waits looks whether the others are still there.
SLICE_SECONDS = 0.1


class Barrier:
    """
    Args:
        group: the ranks.
        counts: of the barriers that each rank has reached, int64 ``[size, COUNT_STRIDE]``: zeros
            that all ranks map.
        pids: each rank's process.

    Raises:
        OSError: this system cannot watch other processes.
    """

    def __init__(self, group: Group, counts: Tensor, pids: list[int]) -> None:
        self.group = group
        self.counts = counts
        self.number = 0
        self.seconds = group.timeout
        self._ends = select.poll()
        self._ranks: dict[int, int] = {}
        for rank, pid in enumerate(pids):
            if rank != group.rank:
                descriptor = os.pidfd_open(pid)
                weakref.finalize(self, os.close, descriptor)
                self._ends.register(descriptor, select.POLLIN)
                self._ranks[descriptor] = rank

    def wait(self) -> None:
        """Wait until all ranks have made as many calls as this one.

        Raises:
            LostRankError: a rank is gone; or, as a LateRankError, it did not come in time.
        """
        self.number += 1
        place = self.counts.data_ptr(), self.group.rank, self.group.size, self.number
        end = time.monotonic() + self.seconds
        while not backend.extension().wait_at_barrier(*place, SLICE_SECONDS):
            gone = [self._ranks[descriptor] for descriptor, _ in self._ends.poll(0)]
            if gone:
                raise LostRankError(f"rank {min(gone)} is gone")
            if time.monotonic() > end:
                raise LateRankError(
                    "a rank did not answer within the process group's timeout, which "
                    f"init_process_group(timeout=) sets: {self.seconds:g} s"
                )
