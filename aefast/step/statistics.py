"""The running statistics of batch normalization, which move with each step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from aefast.backend import extension

if TYPE_CHECKING:
    from aefast import _C


class TrackedNorm(NamedTuple):
    """What a layer's batch normalization keeps of the batches that it has seen.

    Attributes:
        mean: the number of its running mean among the step's parameters.
        variance: that of its running variance.
        momentum: the share of each batch; None weighs all batches alike.
        batches: how many it has seen, int64, a scalar.
    """

    mean: int
    variance: int
    momentum: float | None
    batches: Tensor


class Updates(Protocol):
    """What changes the parameters after each step.

    Attributes:
        numbers: which of the step's parameters each update is of.
    """

    @property
    def numbers(self) -> list[int]: ...

    def updates(self) -> "list[_C.ParameterUpdate]":
        """The updates as C++ takes them."""
        ...

    def advance(self, steps: int) -> None:
        """Called after so many steps."""
        ...


class WithStatistics:
    """An optimizer's updates, and those of running statistics after them.

    Args:
        optimizer: the optimizer's.
        parameters: the step's, running statistics among them.
        norms: whose statistics they are.
    """

    def __init__(
        self, optimizer: Updates, parameters: Sequence[Tensor], norms: Sequence[TrackedNorm]
    ) -> None:
        self.optimizer = optimizer
        self.parameters = parameters
        self.norms = norms
        self.statistics = [number for norm in norms for number in (norm.mean, norm.variance)]

    @property
    def numbers(self) -> list[int]:
        return self.optimizer.numbers + self.statistics

    def updates(self) -> "list[_C.ParameterUpdate]":
        updates = self.optimizer.updates()
        for norm in self.norms:
            batches_so_far = int(norm.batches)
            updates.append(self._update(norm.mean, norm, batches_so_far, norm.batches.data_ptr()))
            updates.append(self._update(norm.variance, norm, batches_so_far, 0))
        return updates

    def advance(self, steps: int) -> None:
        self.optimizer.advance(steps)
        if steps:
            torch.autograd.graph.increment_version(
                [self.parameters[number] for number in self.statistics]
                + [norm.batches for norm in self.norms]
            )

    def _update(
        self, number: int, norm: TrackedNorm, batches_so_far: int, batches: int
    ) -> "_C.ParameterUpdate":
        statistic = self.parameters[number]
        return extension().ParameterUpdate(
            kind=extension().OptimizerKind.average,
            parameter=statistic.data_ptr(),
            size=statistic.numel(),
            momentum=norm.momentum or 0.0,
            is_cumulative=norm.momentum is None,
            step=batches_so_far + 1,
            batches=batches,
        )
