"""Pairs of rows: inputs, and the targets that a transcoder learns of them."""

from typing import Any, NamedTuple

from torch import Tensor

from aefast.data.dataset import Dataset
from aefast.data.tensor_rows import TensorRows


class Pair(NamedTuple):
    """A minibatch: inputs ``[B, D]`` and their targets ``[B, O]``."""

    inputs: Tensor
    targets: Tensor

    def to(self, *args: Any, **kwargs: Any) -> "Pair":
        """Both tensors, converted by ``torch.Tensor.to``."""
        return Pair(self.inputs.to(*args, **kwargs), self.targets.to(*args, **kwargs))

    def part(self, rows: slice) -> "Pair":
        """Some of its rows."""
        return Pair(self.inputs[rows], self.targets[rows])


class PairedRows:
    """The rows of two datasets, in pairs.

    Args:
        inputs: ``[N, D]``.
        targets: ``[N, O]``.
        argument: what both are called in an error.

    Raises:
        ValueError: there are not as many of both.
    """

    def __init__(
        self, inputs: Dataset | TensorRows, targets: Dataset | TensorRows, argument: str
    ) -> None:
        if len(inputs) != len(targets):
            raise ValueError(
                f"{argument} has {len(inputs)} rows of inputs and {len(targets)} of targets; "
                "it takes a target for each input"
            )
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def notes(self) -> tuple[str, ...]:
        """Both datasets' notes."""
        return *self.inputs.notes, *self.targets.notes

    def take(self, indices: Tensor) -> Pair:
        """The pairs of those ``indices``, int64 ``[B]``, in their order."""
        return Pair(self.inputs.take(indices), self.targets.take(indices))
