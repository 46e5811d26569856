"""The training engine of a process group: a rank's share of each step, and the update."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from aefast import random
from aefast.data import Dataset
from aefast.data.minibatches import minibatches_of
from aefast.data.pairs import Pair, PairedRows
from aefast.data.tensor_rows import TensorRows
from aefast.distributed.batch_shard import BatchShard
from aefast.distributed.group import Group, LostRankError
from aefast.distributed.losses import chains_of, exchanges
from aefast.nn.trainable import Trainable
from aefast.step.minibatch_schedule import MinibatchSchedule


class SharedSteps(Protocol):
    """A step of which each rank computes a part: :class:`~aefast.distributed.loop_steps.LoopSteps`
    or :class:`~aefast.distributed.kernel_steps.KernelSteps`.

    Attributes:
        model: what is trained.
        optimizer: of its parameters.
        name: ``"loop"`` or ``"step"``, what computes.
        reason: why it is this one.
        way: how gradients are summed over the ranks; empty before the first step, and for one rank.
    """

    model: Trainable
    optimizer: torch.optim.Optimizer
    name: str
    reason: str

    @property
    def way(self) -> str: ...

    def begin(self) -> None:
        """Called before some steps: read the optimizer's settings, which may have changed."""
        ...

    def look_ahead(self, parts: Sequence[Tensor | Pair]) -> None:
        """Take what the parts of a minibatch depend on, of all ranks' rows, before the first."""
        ...

    def compute(self, x: Tensor | Pair, seed: int, shard: BatchShard) -> float:
        """The part of the loss of a shard's rows x ``[B, D]``, or pairs. Their gradients are added
        to those of the rank's earlier rows."""
        ...

    def add_up(self, scalars: list[float]) -> list[float]:
        """Sum the gradients, and some scalars, over the ranks."""
        ...

    def optimizer_step(self) -> None:
        """Take the optimizer's step."""
        ...

    def end(self, steps: int) -> None:
        """Called after so many steps since :meth:`begin`."""
        ...


class GroupEngine:
    """Each rank takes its rows of every minibatch; gradients are summed, and each rank takes the
    optimizer's step: parameters stay the same on all.

    The parameters equal those of one process up to rounding; noise and chains equal its to the bit.

    Args:
        steps: how a rank's rows are computed.
        dataset: the rows.
        group: the ranks; one process alone takes the same steps.
        micro_batch_size: the most rows that a rank computes at once; None for all of its rows.
    """

    def __init__(
        self,
        steps: SharedSteps,
        dataset: Dataset | TensorRows | PairedRows,
        group: Group,
        micro_batch_size: int | None = None,
    ) -> None:
        self.steps = steps
        self.dataset = dataset
        self.group = group
        self.micro_batch_size = micro_batch_size
        self.name = "group" if group.size > 1 else steps.name
        example = next(steps.model.parameters())
        self.device, self.dtype = example.device, example.dtype
        self._error: Exception | None = None  # of the last step, not yet known to the other ranks

    @property
    def reason(self) -> str:
        parts = f"{self.group.size} ranks" if self.group.size > 1 else "micro-batches"
        return f"gradients are summed over {parts}{self.steps.way}; {self.steps.reason}"

    def run(self, schedule: MinibatchSchedule, seconds: float) -> list[float]:
        """As :meth:`aefast.training.engines.Engine.run`, and at the same step on each rank.

        Raises:
            LostRankError: a rank is gone.
            OtherRankError: one has an error, which it raises itself.
        """
        self._error = None
        self.group.together(self.steps.begin)
        losses: list[float] = []
        try:
            self._run(schedule, time.perf_counter() + seconds, losses)
        finally:
            self.steps.end(sum(map(math.isfinite, losses)))
        self.group.together(self._raise_local_error)
        self._gather_chains()
        return losses

    def _run(self, schedule: MinibatchSchedule, end: float, losses: list[float]) -> None:
        step = schedule.first_step
        for minibatches, seed in zip(schedule.epochs(), schedule.seeds, strict=False):
            shards = [BatchShard(self.group, len(rows)) for rows in minibatches]
            local_rows = [rows[shard.rows] for rows, shard in zip(minibatches, shards, strict=True)]
            inputs = minibatches_of(self.dataset, local_rows, self.device, self.dtype)
            for shard in shards:
                loss, is_over = self._step(inputs, random.child_seed(seed, step), shard, end)
                losses.append(loss)
                step += 1
                if is_over or not math.isfinite(loss):
                    return
            step = 0

    def _step(
        self, inputs: Iterator[Tensor | Pair], seed: int, shard: BatchShard, end: float
    ) -> tuple[float, bool]:
        """Take a step, if its loss is finite. Returns the minibatch's loss, and whether the time is
        over on any rank."""
        value = 0.0
        try:
            value = self._compute(self._next(inputs), seed, shard)
        except LostRankError:
            raise
        except Exception as raised:  # the others wait for this rank
            self._error = raised
        scalars = [value, float(time.perf_counter() >= end), float(self._error is not None)]
        value, over, errors = self.steps.add_up(scalars)
        if errors:
            self.group.raise_first(self._error)
        if math.isfinite(value):
            try:
                self.steps.optimizer_step()
            except Exception as raised:  # raised by a hook
                self._error = raised
        return value, over > 0

    def _next(self, inputs: Iterator[Tensor | Pair]) -> Tensor | Pair:
        """The rank's next rows. Where the ranks exchange something in the loss, a rank that has an
        error before it says so first: the others would wait for it there."""

        def read() -> Tensor | Pair:
            self._raise_local_error()
            return next(inputs)

        return self.group.together(read) if exchanges(self.steps.model) else read()

    def _compute(self, x: Tensor | Pair, seed: int, shard: BatchShard) -> float:
        """The rank's part of the loss, of its rows x ``[B, D]`` or pairs; its gradients are added
        up."""
        first = shard.first
        micro_batches = shard.micro_batches(self.micro_batch_size)
        rows = [slice(one.rows.start - first, one.rows.stop - first) for one in micro_batches]
        parts = [x.part(own) if isinstance(x, Pair) else x[own] for own in rows]
        if self.micro_batch_size is not None:
            self.steps.look_ahead(parts)
        shares = zip(parts, micro_batches, strict=True)
        return sum(self.steps.compute(part, seed, one) for part, one in shares)

    def _raise_local_error(self) -> None:
        if self._error is not None:
            raise self._error

    @torch.no_grad()
    def _gather_chains(self) -> None:
        """Give each rank all persistent chains, of which each rank has updated its own."""
        chain = chains_of(self.steps.model)
        if chain is not None:
            self.group.gather_rows(chain)
