"""All-reduce of gradients over the ranks, in buckets."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from aefast.distributed.group import Group, Sum

# What goes over the network together: large enough that a message's own cost is small.
BUCKET_BYTES = 1 << 25


class GradientSum:
    """The gradients of some parameters, summed over the ranks of a group.

    Args:
        parameters: in the same order on each rank.
        group: the ranks.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: Group) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.buckets = list(_buckets(self.parameters))
        self.group = group

    def take(self, figures: list[float]) -> list[float]:
        """Sum each parameter's gradient, and some figures.

        A parameter without a gradient on any rank stays without one: an optimizer leaves it alone.

        Raises:
            LostRankError: a rank is gone.
        """
        sums = [self._begin(bucket) for bucket in self.buckets]
        have = [float(parameter.grad is not None) for parameter in self.parameters]
        device = self.parameters[0].device
        totals = torch.tensor([*figures, *have], dtype=torch.float64, device=device)
        self.group.add_up(totals).wait()
        for bucket, (flat, under_way) in zip(self.buckets, sums, strict=True):
            under_way.wait()
            pieces = flat.split([parameter.numel() for parameter in bucket])
            for parameter, piece in zip(bucket, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
        numbers = totals.tolist()
        for parameter, count in zip(self.parameters, numbers[len(figures) :], strict=True):
            if count == 0:
                parameter.grad = None
        return numbers[: len(figures)]

    def _begin(self, bucket: list[nn.Parameter]) -> tuple[Tensor, Sum]:
        flat = torch.cat([_flat_gradient(parameter) for parameter in bucket])
        return flat, self.group.add_up(flat)


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return parameter.new_zeros(parameter.numel())
    return parameter.grad.reshape(-1)


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one dtype and device, as many as fit."""
    bucket: list[nn.Parameter] = []
    bytes_before = 0
    for parameter in parameters:
        is_other = bucket and (parameter.dtype, parameter.device) != (
            bucket[0].dtype,
            bucket[0].device,
        )
        if bucket and (is_other or bytes_before + parameter.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, bytes_before = [], 0
        bucket.append(parameter)
        bytes_before += parameter.nbytes
    if bucket:
        yield bucket
