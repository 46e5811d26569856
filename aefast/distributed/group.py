"""The processes that train one model together: torch.distributed's default group."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class LostRankError(RuntimeError):
    """A collective operation did not end: another rank is gone."""


class Group(NamedTuple):
    """Who takes part. Of one process there is nothing to exchange, and nothing is.

    Attributes:
        rank: this process's number.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    def add_up(self, tensor: Tensor) -> "Sum":
        """Begin to sum a tensor over the ranks, in place."""
        with _named_errors():
            return Sum(dist.all_reduce(tensor, async_op=True))

    def any(self, *flags: bool) -> list[bool]:
        """Of each flag whether it is set on some rank."""
        if self.size == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.float32, device=self._device())
        self.add_up(counts).wait()
        return [count > 0 for count in counts.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, which pickle takes."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _named_errors():
            dist.all_gather_object(values, value)
        return values

    def of_first(self, value: Any) -> Any:
        """Rank 0's value, which pickle takes."""
        if self.size == 1:
            return value
        values = [value]
        with _named_errors():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def copy_of_first(self, tensor: Tensor) -> None:
        """Give a tensor rank 0's numbers, in place."""
        with _named_errors():
            dist.broadcast(tensor, src=0)

    def rows_of(self, count: int, rank: int | None = None) -> slice:
        """Which of ``count`` rows a rank has: neighbours, as many as the others to one."""
        rank = self.rank if rank is None else rank
        return slice(count * rank // self.size, count * (rank + 1) // self.size)

    def _device(self) -> torch.device:
        """Where small tensors are exchanged."""
        return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


class Sum(NamedTuple):
    """A sum under way."""

    work: Any

    def wait(self) -> None:
        """
        Raises:
            LostRankError: a rank is gone.
        """
        with _named_errors():
            self.work.wait()


class _named_errors:
    """A backend's errors have types and messages of their own: a closed connection, a timeout."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError):
            raise LostRankError(str(error).splitlines()[0]) from error


def current() -> Group:
    """The group of this process, which may be alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return Group()
    return Group(dist.get_rank(), dist.get_world_size())
