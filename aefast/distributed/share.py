"""A rank's rows of a minibatch."""

from typing import NamedTuple

import torch
from torch import Tensor

from aefast.distributed.group import Group


class Share(NamedTuple):
    """Some neighbouring rows of a minibatch, which may be none.

    Attributes:
        group: the ranks that share it.
        batch_rows: how many rows the minibatch has.
        part: which part of the rank's rows it is.
        parts: into how many they are divided.
    """

    group: Group
    batch_rows: int
    part: int = 0
    parts: int = 1

    @property
    def rows(self) -> slice:
        whole = self.group.rows_of(self.batch_rows)
        count = whole.stop - whole.start
        return slice(
            whole.start + count * self.part // self.parts,
            whole.start + count * (self.part + 1) // self.parts,
        )

    def micro_batches(self, most_rows: int | None) -> "list[Share]":
        """A rank's rows in parts of at most so many, which are computed one after the other."""
        count = self.rows.stop - self.rows.start
        parts = 1 if most_rows is None else max(1, -(-count // most_rows))
        return [self._replace(part=part, parts=parts) for part in range(parts)]

    @property
    def first(self) -> int:
        """The number of the first row: the ``row_offset`` with which its noise is drawn."""
        return self.rows.start

    @property
    def weight(self) -> float:
        """Which part of the minibatch it is: what its mean adds to the minibatch's mean."""
        return (self.rows.stop - self.rows.start) / self.batch_rows

    def mean_of_batch(self, values: Tensor) -> Tensor:
        """The mean over the minibatch of some rows ``[B, H]``, here the share's: ``[H]``.

        Its derivative is that of the share's own mean. Where each rank gives its loss the share's
        weight, these add up to the derivative of the minibatch's mean.
        """
        own = values.mean(0) if len(values) else values.new_zeros(values.shape[1])
        whole = own.detach() * self.weight
        self.group.all_reduce(whole).wait()
        return whole + (own - own.detach())

    def is_any_of_batch(self, flags: Tensor) -> Tensor:
        """Where a flag is set on some rank."""
        counts = flags.to(torch.float32)
        self.group.all_reduce(counts).wait()
        return counts > 0
