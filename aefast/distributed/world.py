"""How the processes that ``torchrun`` starts begin together, and end together.

Whatever ends a rank ends the others, within seconds, with one line from one of them: a rank that
has an error says it, and of one that is gone the others say which it was.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from aefast.distributed.group import Group, current

BACKENDS = ("gloo", "nccl")

# A collective operation waits so long for a rank that computes, evaluates or saves.
TIMEOUT = timedelta(minutes=10)

# A rank that is there answers within so long after another one ended.
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.05

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class World:
    """This process among those that were started with it.

    Attributes:
        group: all of them.
        store: where the ranks leave their last words; None of a process that is alone.
    """

    def __init__(self, group: Group, store: Any = None) -> None:
        self.group = group
        self.store = store

    @classmethod
    def alone(cls) -> "World":
        return cls(Group())

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and shows."""
        return self.group.rank == 0

    def last_line(
        self, message: str | None, way_on: str = "", is_signalled: bool = False
    ) -> str | None:
        """What this rank has to say at the end, if it is the one that speaks.

        Args:
            message: its error; None where all that it knows is that another rank is gone.
            way_on: what to do where another rank is gone.
            is_signalled: whether a signal ended this rank, and perhaps all ranks.
        """
        if self.store is None:
            return message
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others at once
        try:
            self.store.set(self._key(self.group.rank), message or "")
            words = self._words()
        except RuntimeError:  # the store was rank 0's, or torchrun's own
            return message or f"rank 0 is gone, or torchrun is: the others end; {way_on}"
        if is_signalled and len(words) == self.group.size:
            return None
        return _line(words, self.group, way_on)

    def _key(self, rank: int) -> str:
        return f"last words/{rank}"

    def _words(self) -> dict[int, str]:
        """Of each rank that answers in time."""
        end = time.monotonic() + ANSWER_SECONDS
        waiting = set(range(self.group.size))
        while waiting and time.monotonic() < end:
            waiting = {rank for rank in waiting if not self.store.check([self._key(rank)])}
            time.sleep(POLL_SECONDS)
        answers = sorted(set(range(self.group.size)) - waiting)
        return {rank: self.store.get(self._key(rank)).decode() for rank in answers}


def _line(words: dict[int, str], group: Group, way_on: str) -> str | None:
    """The first rank that has an error says it; where none has, the first rank says who is gone."""
    speaker = next((rank for rank, word in words.items() if word), min(words))
    if group.rank != speaker:
        return None
    if words[speaker]:
        return words[speaker]
    gone = [str(rank) for rank in range(group.size) if rank not in words]
    if not gone:
        return f"the ranks lost each other: the network between them failed; {way_on}"
    which = f"rank {gone[0]} is" if len(gone) == 1 else f"ranks {', '.join(gone)} are"
    return f"{which} gone, and the others end; {way_on}"


def is_restarted() -> bool:
    """Whether torchrun starts the ranks anew, after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


@contextlib.contextmanager
def joined(device_of_run: Callable[[], str], backend: str | None) -> Iterator[World]:
    """The world that the environment tells of, as ``torchrun`` writes it, or this process alone.

    Args:
        device_of_run: gives "cpu" or "cuda": where the parameters are.
        backend: one of :data:`BACKENDS`; None takes gloo on a CPU, and nccl on GPUs.

    Raises:
        ValueError: the backend is unknown, or is not there.
    """
    is_world = all(name in os.environ for name in VARIABLES)
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"--backend is {backend!r}; it takes one of {', '.join(BACKENDS)}")
    if not is_world or int(os.environ["WORLD_SIZE"]) == 1:
        yield World.alone()
        return
    device = device_of_run()
    backend = backend or ("nccl" if device == "cuda" else "gloo")
    if backend == "nccl" and device != "cuda":
        raise ValueError("--backend is 'nccl', which takes --device cuda")
    if not dist.is_backend_available(backend):
        raise ValueError(f"--backend is {backend!r}, which this build of torch does not have")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the other ranks cannot be joined: {reason}") from error
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for good: last_line says what ended the world
    try:
        yield World(current(), store)
    finally:
        dist.destroy_process_group()  # the others wait for this rank no longer
