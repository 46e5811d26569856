"""A shard of a minibatch: the rows that one rank computes."""

from typing import NamedTuple

from aefast.distributed.group import Group


class BatchShard(NamedTuple):
    """Adjacent rows of a minibatch, which one rank computes; there may be none.

    Attributes:
        group: the ranks that share the minibatch.
        batch_rows: the minibatch's number of rows.
        micro_batch: the number of this micro-batch, counted from 0.
        micro_batch_count: the number of micro-batches that the rank's rows are divided into.
    """

    group: Group
    batch_rows: int
    micro_batch: int = 0
    micro_batch_count: int = 1

    @property
    def rows(self) -> slice:
        rank_rows = self.group.rows_of(self.batch_rows)
        count = rank_rows.stop - rank_rows.start
        return slice(
            rank_rows.start + count * self.micro_batch // self.micro_batch_count,
            rank_rows.start + count * (self.micro_batch + 1) // self.micro_batch_count,
        )

    @property
    def rank_weights(self) -> list[float]:
        """Each rank's fraction of the minibatch's rows."""
        rows = [self.group.rows_of(self.batch_rows, rank) for rank in range(self.group.size)]
        return [(own.stop - own.start) / self.batch_rows for own in rows]

    def micro_batches(self, most_rows: int | None) -> "list[BatchShard]":
        """The rank's rows in micro-batches of at most ``most_rows``."""
        rows = self.rows.stop - self.rows.start
        count = 1 if most_rows is None else max(1, -(-rows // most_rows))
        return [self._replace(micro_batch=n, micro_batch_count=count) for n in range(count)]

    @property
    def first(self) -> int:
        """The number of the first row, which is the ``row_offset`` of its noise."""
        return self.rows.start

    @property
    def weight(self) -> float:
        """The fraction of the minibatch's rows: the weight of its mean in the minibatch's mean."""
        return (self.rows.stop - self.rows.start) / self.batch_rows
