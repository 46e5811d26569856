"""A share of a step in C++: its gradients in one call, their sum, and the optimizer's step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aefast.data.pairs import Pair
from aefast.distributed.batch_shard import BatchShard
from aefast.distributed.group import Group
from aefast.distributed.shared_memory import SharedBlocks, shared_blocks, way_of
from aefast.nn.step_plan import AnyPlanned, PlannedDictionary, PlannedMachine, PlannedStep
from aefast.nn.trainable import Trainable
from aefast.ops.shared import checks
from aefast.step import optimizers
from aefast.step.loss import kernel_of

FIGURES = 3  # numbers of a step that the ranks sum with the gradients

# Each gradient begins at a multiple of so many numbers, as in csrc/step/fit.cpp.
LINE = 16


class SentBlock(NamedTuple):
    """A block of float32 numbers that becomes its sum over the ranks, with a step's scalars behind
    it: as :class:`~aefast.distributed.shared_memory.SharedBlocks`, over the network.

    Attributes:
        group: the ranks.
        block: ``[count + FIGURES]``.
    """

    group: Group
    block: Tensor

    @classmethod
    def of(cls, group: Group, count: int) -> "SentBlock":
        return cls(group, torch.zeros(count + FIGURES, dtype=torch.float32, device="cpu"))

    @property
    def local(self) -> Tensor:
        """This rank's numbers, before the sum."""
        return self.block[:-FIGURES]

    @property
    def total(self) -> Tensor:
        return self.local

    def add_up(self, scalars: list[float], weights: Sequence[float]) -> list[float]:
        """Sum the block, times this rank's weight, and the scalars, over the ranks."""
        if self.group.size > 1:
            self.local.mul_(weights[self.group.rank])
        tail = self.block[-FIGURES:]
        tail.copy_(torch.tensor(scalars, dtype=torch.float32, device="cpu"))
        self.group.all_reduce(self.block).wait()
        return tail.tolist()


class KernelSteps:
    """Steps in C++. All gradients lie in one block, which the ranks sum: in memory that they share,
    or with the step's scalars behind them over the network.

    Args:
        model: what is trained.
        planned: its step; one that :func:`refusal` has nothing against.
        optimizer: of its parameters.
        group: the ranks.
    """

    name = "step"
    reason = "the kernels take each rank's share of a step"

    def __init__(
        self, model: Trainable, planned: PlannedStep, optimizer: torch.optim.Optimizer, group: Group
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.planned = planned
        self.kernel = kernel_of(planned.plan, "cpp")
        self.steps = optimizers.OptimizerSteps(optimizer, planned.parameters)
        self.group = group
        starts = [0]
        for parameter in planned.parameters:
            starts.append(starts[-1] + -(-parameter.numel() // LINE) * LINE)
        self.starts = starts
        self.sum: SharedBlocks | SentBlock | None = None
        self.way = ""
        self.weights: list[float] = [0.0] * group.size  # the ranks' shares of the minibatch

    def begin(self) -> None:
        if self.sum is None:  # at the same call on all ranks
            size = self.starts[-1]
            shared = shared_blocks(self.group, size, FIGURES) if self.group.size > 1 else ""
            self.way = way_of(shared, self.group)
            self.sum = SentBlock.of(self.group, size) if isinstance(shared, str) else shared
            self.gradients = self._gradient_views(self.sum.local)
        totals = self._gradient_views(self.sum.total)
        self.updates = self.steps.updates()
        self.pointers = [totals[number].data_ptr() for number in self.steps.numbers]

    def _gradient_views(self, block: Tensor) -> list[Tensor]:
        """Views of a block, a gradient a parameter."""
        return [
            block[start : start + parameter.numel()]
            for start, parameter in zip(self.starts, self.planned.parameters, strict=False)
        ]

    def look_ahead(self, parts: Sequence[Tensor | Pair]) -> None:
        """Their losses are means over rows, and depend on nothing else."""

    def compute(self, x: Tensor | Pair, seed: int, shard: BatchShard) -> float:
        assert self.sum is not None  # begin() has made it
        assert isinstance(x, Tensor)  # of pairs the loop takes the steps
        local = self.sum.local
        self.weights = shard.rank_weights
        if len(x) == 0:
            local.zero_()
            return 0.0
        if self.planned.unit_interval_reason is not None:
            checks.check_unit_interval(x, "x", self.planned.unit_interval_reason)
        arguments = self.planned.parameters, x, seed, shard.first
        if shard.micro_batch_count == 1:
            return shard.weight * self.kernel(*arguments, self.gradients)
        if shard.micro_batch == 0:
            local.zero_()
        block = torch.zeros_like(local)
        loss = self.kernel(*arguments, self._gradient_views(block))
        local.add_(block, alpha=shard.weight / self.weights[self.group.rank])
        return shard.weight * loss

    def add_up(self, scalars: list[float]) -> list[float]:
        assert self.sum is not None
        return self.sum.add_up(scalars, self.weights)

    def optimizer_step(self) -> None:
        from aefast.step import cpp

        cpp.update(self.updates, self.pointers)

    def end(self, steps: int) -> None:
        self.steps.advance(steps)


def refusal(planned: AnyPlanned) -> str | None:
    """Why the kernels do not compute a rank's part of a planned step; None if they do."""
    if isinstance(planned, PlannedMachine):
        return "the ranks exchange a machine's chains, or its mean activity"
    if isinstance(planned, PlannedDictionary):
        return "the ranks exchange the counts of idle latents"
    if planned.has_norm_or_dropout:
        return "batch normalization and dropout between layers are each rank's own"
    if planned.plan.penalty == "kl":
        return "the ranks exchange the mean activity"
    return None
