"""How the ranks of a test's group wait for each other in shared memory."""

import time

from aefast.distributed.group import LostRankError, current
from aefast.distributed.shared_memory import SharedBlocks, shared_blocks

ROUNDS = 2000


def shared() -> SharedBlocks:
    blocks = shared_blocks(current(), 40, 2)
    assert isinstance(blocks, SharedBlocks), blocks
    return blocks


def sums() -> int:
    """How many of the sums are wrong, of numbers that are other ones each time."""
    blocks, rank, size = shared(), current().rank, current().size
    weights = [rank + 1.0 for rank in range(size)]
    wrong = 0
    for number in range(ROUNDS):
        blocks.local.fill_(number + rank)
        scalars = blocks.add_up([number, -rank], weights)
        expected = sum((number + rank) * (rank + 1) for rank in range(size))
        is_right = scalars == [number * size, -size * (size - 1) / 2]
        wrong += not (is_right and bool((blocks.total == expected).all()))
    return wrong


def waits_for(seconds: float) -> str:
    """What rank 0 finds, which waits so long for another one: that has ended, or sleeps."""
    barrier = shared().barrier
    barrier.seconds = seconds
    barrier.wait()
    if current().rank == 1:
        time.sleep(0.0 if seconds > 10 else 3.0)
        return "nothing"
    try:
        barrier.wait()
    except LostRankError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"
