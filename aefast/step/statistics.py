"""Updates the running statistics of batch normalization after each training step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from aefast.backend import extension

if TYPE_CHECKING:
    from aefast import _C


class TrackedNorm(NamedTuple):
    """The running statistics of one batch normalization.

    Attributes:
        mean: the index of the running mean among the step's parameters.
        variance: the index of the running variance.
        momentum: the weight of a new batch; None averages all batches alike.
        batches: the number of batches so far, a scalar int64 tensor.
    """

    mean: int
    variance: int
    momentum: float | None
    batches: Tensor


class Updates(Protocol):
    """The parameters' updates after each step: an optimizer's, or running statistics'.

    Attributes:
        numbers: the index, among the step's parameters, of each updated parameter.
    """

    @property
    def numbers(self) -> list[int]: ...

    def updates(self) -> "list[_C.ParameterUpdate]":
        """The updates as C++ objects, with the current settings."""
        ...

    def advance(self, steps: int) -> None:
        """Record that the kernels took so many steps."""
        ...


class WithStatistics:
    """An optimizer's updates, followed by those of running statistics.

    Args:
        optimizer: the optimizer's updates.
        parameters: the step's parameters, with the running statistics among them.
        norms: the batch normalizations.
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
