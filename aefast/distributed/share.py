"""A rank's rows of a minibatch."""

from typing import NamedTuple

import torch
from torch import Tensor

from aefast.distributed.group import Group


class Share(NamedTuple):
    """Adjacent rows of a minibatch, which one rank computes; there may be none.

    Attributes:
        group: the ranks that share the minibatch.
        batch_rows: the minibatch's number of rows.
        part: the number of this part of the rank's rows.
        parts: the number of parts that the rank's rows are divided into.
    """

    group: Group
    batch_rows: int
    part: int = 0
    parts: int = 1

    @property
    def rows(self) -> slice:
        rank_rows = self.group.rows_of(self.batch_rows)
        count = rank_rows.stop - rank_rows.start
        return slice(
            rank_rows.start + count * self.part // self.parts,
            rank_rows.start + count * (self.part + 1) // self.parts,
        )

    def micro_batches(self, most_rows: int | None) -> "list[Share]":
        """The rank's rows in parts of at most ``most_rows``, to be computed one after the other."""
        rows = self.rows.stop - self.rows.start
        count = 1 if most_rows is None else max(1, -(-rows // most_rows))
        return [self._replace(part=part, parts=count) for part in range(count)]

    @property
    def first(self) -> int:
        """The number of the first row, which is the ``row_offset`` of its noise."""
        return self.rows.start

    @property
    def weight(self) -> float:
        """The share of the minibatch's rows: the weight of its mean in the minibatch's mean."""
        return (self.rows.stop - self.rows.start) / self.batch_rows

    def mean_of_batch(self, values: Tensor) -> Tensor:
        """The minibatch's mean ``[H]``, of which ``values`` ``[B, H]`` are the share's rows.

        Its gradient is that of the share's own mean. Where each rank's loss has the share's weight,
        the ranks' gradients add up to that of the minibatch's mean.
        """
        own_mean = values.mean(0) if len(values) else values.new_zeros(values.shape[1])
        batch_mean = own_mean.detach() * self.weight
        self.group.all_reduce(batch_mean).wait()
        return batch_mean + (own_mean - own_mean.detach())

    def is_any_of_batch(self, flags: Tensor) -> Tensor:
        """For each flag whether it is set on any rank."""
        counts = flags.to(torch.float32)
        self.group.all_reduce(counts).wait()
        return counts > 0
