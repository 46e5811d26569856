"""The processes that ``torchrun`` starts: how they join a group, and how they end.

If one rank ends, all end within seconds, and one of them prints one line: a rank's error, or which
rank is gone.
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

# A collective operation waits so long for a rank that is still reading its data, computing,
# evaluating or saving. One that is killed is noticed at once, and one that hangs only then.
TIMEOUT = timedelta(minutes=10)

# A rank that is alive answers within so long after another one ended.
ANSWER_SECONDS = 10.0
POLL_SECONDS = 0.05

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class World:
    """This process, and the others that torchrun started with it.

    Attributes:
        group: the processes.
        store: torch's key-value store, where the ranks leave their errors; None for one process.
    """

    def __init__(self, group: Group, store: Any = None) -> None:
        self.group = group
        self.store = store

    @classmethod
    def alone(cls) -> "World":
        return cls(Group())

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files and the progress."""
        return self.group.rank == 0

    def final_line(
        self,
        message: str | None,
        advice: str = "",
        is_signalled: bool = False,
        is_late: bool = False,
    ) -> str | None:
        """The line that this rank prints at the end; None if another rank prints it.

        Args:
            message: this rank's error; None if it only knows that another rank is gone.
            advice: what to do where a rank is gone.
            is_signalled: whether a signal ended this rank, and perhaps all ranks.
            is_late: whether this rank waited for another one until the timeout.
        """
        if self.store is None:
            return message
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others at once
        try:
            self.store.set(self._key(self.group.rank), message or "")
            errors = self._errors()
        except RuntimeError:  # the store was rank 0's, or torchrun's own
            return message or f"rank 0 is gone, or torchrun is: the others end; {advice}"
        if is_signalled and len(errors) == self.group.size:
            return None
        return _line(errors, self.group, advice, is_late)

    def _key(self, rank: int) -> str:
        return f"error/{rank}"

    def _errors(self) -> dict[int, str]:
        """The error, or "", of each rank that answers in time."""
        end = time.monotonic() + ANSWER_SECONDS
        waiting = set(range(self.group.size))
        while waiting and time.monotonic() < end:
            waiting = {rank for rank in waiting if not self.store.check([self._key(rank)])}
            time.sleep(POLL_SECONDS)
        answers = sorted(set(range(self.group.size)) - waiting)
        return {rank: self.store.get(self._key(rank)).decode() for rank in answers}


def _line(errors: dict[int, str], group: Group, advice: str, is_late: bool) -> str | None:
    """The line of this rank, if it prints one. The first rank with an error prints it; if there is
    none, the first rank says which ranks are gone."""
    speaker = next((rank for rank, error in errors.items() if error), min(errors))
    if group.rank != speaker:
        return None
    if errors[speaker]:
        return errors[speaker]
    gone = [str(rank) for rank in range(group.size) if rank not in errors]
    if not gone:
        return f"the ranks lost each other: the network between them failed; {advice}"
    which = f"rank {gone[0]} is" if len(gone) == 1 else f"ranks {', '.join(gone)} are"
    how = f"without an answer for {TIMEOUT.total_seconds() / 60:g} minutes" if is_late else "gone"
    return f"{which} {how}, and the others end; {advice}"


def is_restarted() -> bool:
    """Whether torchrun has restarted the ranks, after one of them failed."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _store_of_attempt(store: dist.Store) -> dist.Store:
    """The store without what ranks left there before a restart, their addresses among it.

    torchrun restarts the ranks of one machine with the same store. Those of several machines get a
    new one, and may count the restarts differently.
    """
    is_one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return dist.PrefixStore(f"attempt {_restarts() if is_one_machine else 0}", store)


@contextlib.contextmanager
def joined(device_of_run: Callable[[], str], backend: str | None) -> Iterator[World]:
    """Join the group that torchrun's environment variables describe; without them, one process.

    Args:
        device_of_run: returns the parameters' device, "cpu" or "cuda".
        backend: one of :data:`BACKENDS`; None takes gloo on a CPU, and nccl on GPUs.

    Raises:
        ValueError: the backend is unknown, not available, or does not fit the device; or there is
            no such device.
    """
    is_world = all(name in os.environ for name in VARIABLES)
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"--backend is {backend!r}; it takes one of {', '.join(BACKENDS)}")
    if not is_world or int(os.environ["WORLD_SIZE"]) == 1:
        yield World.alone()
        return
    device = device_of_run()
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the run is on cuda, but torch sees no CUDA device; --device cpu moves it")
    backend = backend or ("nccl" if device == "cuda" else "gloo")
    if backend == "nccl" and device != "cuda":
        raise ValueError("--backend is 'nccl', which takes --device cuda")
    if not dist.is_backend_available(backend):
        raise ValueError(f"--backend is {backend!r}, which this build of torch does not have")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        common_store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
        store = _store_of_attempt(common_store)
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
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # not restored: final_line() says what ended the ranks
    try:
        yield World(current(), store)
    finally:
        dist.destroy_process_group()  # the others stop waiting for this rank
