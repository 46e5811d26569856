"""A rank's share of an ordinary training step: the loss, backward, and the optimizer's step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aefast.data.pairs import Pair
from aefast.distributed.batch_shard import BatchShard
from aefast.distributed.gradients import GradientSum
from aefast.distributed.group import Group
from aefast.distributed.losses import Statistics, look_ahead, loss_of_shard
from aefast.nn.trainable import Trainable


class LoopSteps:
    """Serves every model; gradients go over the network in buckets while backward is under way, or
    through memory that the ranks share.

    Args:
        model: what is trained.
        optimizer: of its parameters.
        group: the ranks.
        reason: why C++ does not take the steps.
    """

    name = "loop"

    def __init__(
        self, model: Trainable, optimizer: torch.optim.Optimizer, group: Group, reason: str
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.gradients = GradientSum(model.parameters(), group)
        self.reason = reason
        self.statistics: Statistics | None = None

    @property
    def way(self) -> str:
        return self.gradients.way

    def begin(self) -> None:
        self.gradients.watch()

    def look_ahead(self, parts: Sequence[Tensor | Pair]) -> None:
        self.statistics = look_ahead(self.model, parts, self.gradients.group)

    def compute(self, x: Tensor | Pair, seed: int, shard: BatchShard) -> float:
        if shard.micro_batch == 0:
            self.optimizer.zero_grad()
        self.gradients.is_last_backward = shard.micro_batch == shard.micro_batch_count - 1
        loss = loss_of_shard(self.model, x, seed, shard, self.statistics)
        if loss is None:
            return 0.0
        loss.backward()
        return loss.item()

    def add_up(self, scalars: list[float]) -> list[float]:
        return self.gradients.all_reduce(scalars)

    def optimizer_step(self) -> None:
        self.optimizer.step()

    def end(self, steps: int) -> None:
        self.gradients.unwatch()
