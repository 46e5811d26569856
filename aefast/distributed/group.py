"""The processes that train one model together: a process group of torch.distributed."""

import os
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aefast import torch_private
from aefast.ops.shared.precision import upcast

Result = TypeVar("Result")


class LostRankError(RuntimeError):
    """A collective operation did not end: another rank is gone, or did not answer in time."""


class LateRankError(LostRankError):
    """Another rank did not answer within the group's timeout: it hangs, or made no call."""


class OtherRankError(ValueError):
    """Another rank has an error: its number and its message."""


class Group(NamedTuple):
    """This process among those that take part. A group of one exchanges nothing.

    Attributes:
        rank: this process's number.
        size: the number of processes.
        handle: torch's group; None for its default group.
    """

    rank: int = 0
    size: int = 1
    handle: "dist.ProcessGroup | None" = None

    def all_reduce(self, tensor: Tensor) -> "Sum":
        """Begin to sum a tensor over the ranks, in place."""
        if self.size == 1:
            return Sum(None)
        with _named_errors():
            return Sum(dist.all_reduce(tensor, group=self.handle, async_op=True))

    def total(self, count: int) -> int:
        """The sum of the ranks' counts."""
        if self.size == 1:
            return count
        total = torch.tensor(count, dtype=torch.int64, device=self._device())
        self.all_reduce(total).wait()
        return int(total)

    def numbers(self, number: Tensor) -> Tensor:
        """Every rank's scalar, ``[size]``."""
        numbers = number.new_zeros(self.size)
        numbers[self.rank] = number
        self.all_reduce(numbers).wait()
        return numbers

    def any(self, *flags: bool) -> list[bool]:
        """Whether each flag is set on any rank."""
        if self.size == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.float32, device=self._device())
        self.all_reduce(counts).wait()
        return [count > 0 for count in counts.tolist()]

    def summed(self, tensor: Tensor) -> Tensor:
        """A tensor's sum over the ranks, in place."""
        self.all_reduce(tensor).wait()
        return tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean ``[H]`` of all ranks' rows, of which ``values`` ``[B, H]`` are this rank's, none
        perhaps.

        Its gradient is that of the mean of this rank's rows: weighted by their share of all rows,
        the ranks' gradients add up to the whole mean's.
        """
        return with_gradient_of(self.mean_of_parts([values.detach()]), values)

    def mean_of_parts(self, parts: Sequence[Tensor]) -> Tensor:
        """The mean ``[H]`` of all ranks' rows, of which this rank has some parts, ``[B, H]``."""
        rows = [upcast(part) for part in parts]
        sums = torch.stack([part.sum(0) for part in rows]).sum(0)
        totals = self.summed(torch.cat([sums, sums.new_tensor([sum(map(len, rows))])]))
        return totals[:-1] / totals[-1]

    def gather_rows(self, tensor: Tensor) -> None:
        """Give each rank all rows of a tensor, of which it has those of :meth:`rows_of`."""
        rows = self.rows_of(len(tensor))
        all_rows = torch.zeros_like(tensor)
        all_rows[rows] = tensor[rows]
        self.all_reduce(all_rows).wait()
        tensor.copy_(all_rows)

    def gather(self, value: Result) -> list[Result]:
        """Every rank's value, which pickle takes."""
        if self.size == 1:
            return [value]
        values = [value] * self.size  # all of them are overwritten
        with _named_errors():
            dist.all_gather_object(values, value, group=self.handle)
        return values

    def broadcast_object(self, value: Result) -> Result:
        """Rank 0's value, which pickle takes."""
        if self.size == 1:
            return value
        values = [value]
        with _named_errors():
            dist.broadcast_object_list(values, self._first(), group=self.handle)
        return values[0]

    def broadcast(self, tensor: Tensor) -> None:
        """Give a tensor rank 0's numbers, in place."""
        sent = tensor.to(self._device()) if tensor.is_cpu else tensor
        sent = sent.contiguous()
        with _named_errors():
            dist.broadcast(sent, self._first(), group=self.handle)
        if sent is not tensor:
            tensor.copy_(sent)

    def together(self, action: Callable[[], Result]) -> Result:
        """Run an action on all ranks, and wait until it is over on each; its result on this rank.

        Raises:
            OtherRankError: it raised on another rank. An error of this rank is raised itself.
        """
        if self.size == 1:
            return action()
        error: BaseException | None = None
        try:
            result = action()
        except BaseException as raised:  # the others wait for this rank
            error = raised
        try:
            (is_wrong,) = self.any(error is not None)
        except LostRankError:
            if error is None:
                raise
            is_wrong = True
        if is_wrong:
            self.raise_first(error)
        return result

    def raise_first(self, error: BaseException | None) -> None:
        """Called by all ranks: each raises its own error, or names the first rank that has one.

        Raises:
            OtherRankError: there is one, and not on this rank.
        """
        try:
            messages = self.gather(None if error is None else str(error) or type(error).__name__)
        except LostRankError:
            if error is None:
                raise
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise OtherRankError(f"on rank {rank}: {message}")

    def rows_of(self, count: int, rank: int | None = None) -> slice:
        """The rows of a rank, of ``count`` in all: adjacent, and as many as another's, or one more
        or less."""
        rank = self.rank if rank is None else rank
        return slice(count * rank // self.size, count * (rank + 1) // self.size)

    def _first(self) -> int:
        """The number of rank 0 among all processes."""
        return 0 if self.handle is None else dist.get_global_rank(self.handle, 0)

    @property
    def timeout(self) -> float:
        """The seconds that a collective operation waits for a rank."""
        return torch_private.timeout(self.handle or dist.group.WORLD)

    @property
    def backend(self) -> str:
        """What torch.distributed sends with: ``"gloo"`` or ``"nccl"``."""
        return str(dist.get_backend(self.handle))

    def _device(self) -> torch.device:
        """The device on which small tensors are exchanged."""
        return torch.device("cuda" if self.backend == "nccl" else "cpu")


def with_gradient_of(mean: Tensor, values: Tensor) -> Tensor:
    """The mean ``[H]`` of many rows, with the gradient of the mean of those ``[B, H]`` of them."""
    rows = upcast(values)
    own_mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
    return mean + (own_mean - own_mean.detach())


class Sum(NamedTuple):
    """An asynchronous all-reduce; None in a group of one."""

    work: "dist.Work | None"

    def wait(self) -> None:
        """
        Raises:
            LostRankError: a rank is gone.
        """
        if self.work is None:
            return
        with _named_errors():
            self.work.wait()


class _named_errors:
    """Raises LostRankError in place of a backend's own errors: a closed connection, a timeout."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, RuntimeError):
            return
        reason = str(error).splitlines()[0]
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            raise LateRankError(
                "a rank did not answer within the process group's timeout, which "
                f"init_process_group(timeout=) sets: {reason}"
            ) from error
        raise LostRankError(reason) from error


def is_in_group() -> bool:
    """Whether this process has joined torch.distributed's default group."""
    return dist.is_available() and dist.is_initialized()


def current() -> Group:
    """The default group of this process, which may be alone."""
    if not is_in_group():
        return Group()
    return Group(dist.get_rank(), dist.get_world_size())


def warn_of_forgotten_group() -> None:
    """Warn where a launcher, such as torchrun, has started other ranks, and nothing joins them."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return
    size = os.environ["WORLD_SIZE"]
    if size == "1" or is_in_group():
        return
    warnings.warn(
        f"WORLD_SIZE is {size}, and this process trains alone: it takes "
        "torch.distributed.init_process_group() before aefast.fit to train with the others; "
        "process_group=None says that it is meant",
        stacklevel=3,
    )


def group_of(process_group: object) -> Group:
    """The group that an argument ``process_group`` names: None is this process alone.

    Raises:
        TypeError, ValueError: it is no process group, or one that this process is not in.
    """
    if process_group is None:
        return Group()
    if not (dist.is_available() and isinstance(process_group, dist.ProcessGroup)):
        if dist.is_available() and process_group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(
                "process_group is one that this process is not in; its own ranks alone make the "
                "call"
            )
        raise TypeError(
            f"process_group is a {type(process_group).__name__}; it takes a "
            "torch.distributed.ProcessGroup, such as torch.distributed.group.WORLD, or None"
        )
    return Group(dist.get_rank(process_group), process_group.size(), process_group)
