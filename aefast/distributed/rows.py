"""Rows that are distributed over the ranks of a group, each row on one rank."""

import torch
from torch import Tensor

from aefast.distributed.group import Group


def check_widths(widths: list[int]) -> None:
    """
    Raises:
        ValueError: the ranks' rows have different widths.
    """
    if len(set(widths)) > 1:
        raise ValueError(
            f"the ranks' X have {', '.join(map(str, widths))} features; it takes the same of all"
        )


class DistributedRows:
    """Rows that are distributed over the ranks; a group of one has all of them.

    Args:
        group: the ranks.
        local: this rank's rows, ``[N, D]``.
        indices: their indices among the rows of all ranks, int64 ``[N]``.
        count: the number of rows on all ranks.
    """

    def __init__(self, group: Group, local: Tensor, indices: Tensor, count: int) -> None:
        self.group = group
        self.local = local
        self.indices = indices
        self.count = count

    @classmethod
    def joined(cls, group: Group, local: Tensor) -> "DistributedRows":
        """Index the ranks' rows: rank 0's first, then rank 1's, and so on.

        Raises:
            ValueError: the ranks' rows have different widths.
        """
        shapes = group.gather(tuple(local.shape))
        check_widths([width for _, width in shapes])
        first = sum(rows for rows, _ in shapes[: group.rank])
        indices = torch.arange(first, first + len(local), dtype=torch.int64, device="cpu")
        return cls(group, local, indices, sum(rows for rows, _ in shapes))

    def batch(self, order: Tensor) -> "DistributedRows":
        """The rows of these indices, int64 ``[B]``, in their order."""
        if self.group.size == 1:
            positions = torch.arange(len(order), dtype=torch.int64, device="cpu")
            return DistributedRows(self.group, self.local[order], positions, len(order))
        first = int(self.indices[0]) if len(self.indices) else 0
        positions = ((order >= first) & (order < first + len(self.local))).nonzero().flatten()
        return DistributedRows(
            self.group, self.local[order[positions] - first], positions, len(order)
        )

    def take(self, indices: Tensor) -> Tensor:
        """The rows of these indices, int64 ``[K]``, on each rank: ``[K, D]``."""
        if self.group.size == 1:
            return self.local[indices]
        rows = self.local.new_zeros(len(indices), self.local.shape[1])
        positions, local_positions = (indices[:, None] == self.indices).nonzero(as_tuple=True)
        rows[positions] = self.local[local_positions]
        return self.sum(rows)

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor's sum over the ranks, in place."""
        if self.group.size > 1:
            self.group.all_reduce(tensor).wait()
        return tensor
