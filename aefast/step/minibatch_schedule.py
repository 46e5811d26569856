"""The minibatches of the next steps: their row indices and seeds, for one call of the kernels."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import random

# A call of the kernels returns after so long, so that Ctrl-C and callbacks are served in between.
CHUNK_SECONDS = 0.05


class MinibatchSchedule(NamedTuple):
    """The remaining minibatches of an epoch, and those of whole epochs after it.

    Step n of an epoch draws with ``random.child_seed(seed, n)``, where ``seed`` is the epoch's.

    Attributes:
        order: the indices of the rows, int64, epoch after epoch.
        batch_size: the largest number of rows in a minibatch.
        epoch_rows: the number of rows in a whole epoch.
        seeds: the seed of each epoch.
        first_step: the number of the first epoch's next step, counted from 0.
        is_even: True splits an epoch into minibatches whose sizes differ by at most one, the larger
            ones first. False gives all ``batch_size`` rows; the last one may have fewer.
    """

    order: Tensor
    batch_size: int
    epoch_rows: int
    seeds: Sequence[int]
    first_step: int = 0
    is_even: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.epoch_rows // self.batch_size)

    @property
    def largest_minibatch(self) -> int:
        """The most rows in a minibatch of a whole epoch."""
        if self.is_even:
            return -(-self.epoch_rows // self.steps_per_epoch)
        return min(self.batch_size, self.epoch_rows)

    def after(self, steps: int) -> "MinibatchSchedule":
        """The schedule without its first steps; its order may be empty."""
        rows, steps_of_first = self._rows_of_first_epoch, self._steps_of_first_epoch
        if steps < steps_of_first:
            step = self.first_step + steps
            rows_done = self._rows_before(step) - self._rows_before(self.first_step)
            return self._replace(order=self.order[rows_done:], first_step=step)
        epochs, step = divmod(steps - steps_of_first, self.steps_per_epoch)
        rows_done = rows + epochs * self.epoch_rows + self._rows_before(step)
        return self._replace(
            order=self.order[rows_done:], seeds=self.seeds[1 + epochs :], first_step=step
        )

    def epochs(self) -> Iterator[Sequence[Tensor]]:
        """The row indices of each minibatch, epoch by epoch."""
        first = self._rows_of_first_epoch
        rest = self.order[first:]
        yield self._minibatches(self.order[:first], self.first_step)
        for rows in rest.split(self.epoch_rows) if len(rest) else ():
            yield self._minibatches(rows, 0)

    def step_seeds(self, steps: int) -> Tensor:
        """The seeds of the first steps, an int64 tensor ``[steps]``."""
        seeds: list[Tensor] = []
        first, most = self.first_step, self._steps_of_first_epoch
        for seed in self.seeds:
            seeds.append(random.child_seeds(seed, first, min(steps, most)))
            steps -= len(seeds[-1])
            first, most = 0, self.steps_per_epoch
        return torch.cat(seeds)

    @property
    def _rows_of_first_epoch(self) -> int:
        return (len(self.order) - 1) % self.epoch_rows + 1

    @property
    def _steps_of_first_epoch(self) -> int:
        if self.is_even:
            return self.steps_per_epoch - self.first_step
        return -(-self._rows_of_first_epoch // self.batch_size)

    def _rows_before(self, step: int) -> int:
        """The number of rows in an epoch's minibatches before this step."""
        if not self.is_even:
            return step * self.batch_size
        size, larger = divmod(self.epoch_rows, self.steps_per_epoch)
        return step * size + min(step, larger)

    def _minibatches(self, rows: Tensor, step: int) -> Sequence[Tensor]:
        if not self.is_even:
            return rows.split(self.batch_size)
        ends = [self._rows_before(n) for n in range(step, self.steps_per_epoch + 1)]
        return rows.split([end - begin for begin, end in pairwise(ends)])
