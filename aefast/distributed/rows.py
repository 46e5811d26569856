"""Rows that are spread over the ranks of a group, each row on one rank."""

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


class SpreadRows:
    """Numbered rows that are spread over the ranks; a group of one has all of them.

    Args:
        group: the ranks.
        own: this rank's rows, ``[N, D]``.
        numbers: their numbers, int64 ``[N]``.
        count: the number of rows on all ranks.
    """

    def __init__(self, group: Group, own: Tensor, numbers: Tensor, count: int) -> None:
        self.group = group
        self.own = own
        self.numbers = numbers
        self.count = count

    @classmethod
    def joined(cls, group: Group, own: Tensor) -> "SpreadRows":
        """Number the ranks' rows: rank 0's first, then rank 1's, and so on.

        Raises:
            ValueError: the ranks' rows have different widths.
        """
        shapes = group.gather(tuple(own.shape))
        check_widths([width for _, width in shapes])
        first = sum(rows for rows, _ in shapes[: group.rank])
        numbers = torch.arange(first, first + len(own), dtype=torch.int64, device="cpu")
        return cls(group, own, numbers, sum(rows for rows, _ in shapes))

    def batch(self, order: Tensor) -> "SpreadRows":
        """The rows of these numbers, int64 ``[B]``, in their order."""
        if self.group.size == 1:
            numbers = torch.arange(len(order), dtype=torch.int64, device="cpu")
            return SpreadRows(self.group, self.own[order], numbers, len(order))
        first = int(self.numbers[0]) if len(self.numbers) else 0
        numbers = ((order >= first) & (order < first + len(self.own))).nonzero().flatten()
        return SpreadRows(self.group, self.own[order[numbers] - first], numbers, len(order))

    def take(self, numbers: Tensor) -> Tensor:
        """The rows of these numbers, int64 ``[K]``, on each rank: ``[K, D]``."""
        if self.group.size == 1:
            return self.own[numbers]
        rows = self.own.new_zeros(len(numbers), self.own.shape[1])
        positions, own_positions = (numbers[:, None] == self.numbers).nonzero(as_tuple=True)
        rows[positions] = self.own[own_positions]
        return self.sum(rows)

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor's sum over the ranks, in place."""
        if self.group.size > 1:
            self.group.all_reduce(tensor).wait()
        return tensor
