"""Samples that lie in a tensor, on any device and in any dtype."""

from torch import Tensor


class TensorRows:
    """Rows that are gathered on their own device and in their own dtype: no batch is copied to a
    GPU that has them, and float64 stays float64.

    Args:
        rows: ``[N, D]``.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Tensor) -> Tensor:
        """The samples of those ``indices``, int64 ``[B]``, in their order: ``[B, D]``."""
        return self.rows.index_select(0, indices.to(self.rows.device))
