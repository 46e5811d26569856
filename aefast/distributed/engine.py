"""What takes the steps of a training in a process group."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from aefast import random
from aefast.data import Dataset
from aefast.data.minibatches import minibatches_of
from aefast.data.tensor_rows import TensorRows
from aefast.distributed.gradients import GradientSum
from aefast.distributed.group import Group
from aefast.distributed.losses import chains_of, loss_of_share
from aefast.distributed.share import Share
from aefast.step.stretch import Stretch


class GroupEngine:
    """Each rank takes its rows of every minibatch; gradients are summed, and each rank takes the
    optimizer's step: parameters stay the same on all.

    Where one process would be, it is to rounding; noise and chains are one process's to the bit.
    """

    name = "group"

    def __init__(
        self,
        model: Any,
        dataset: Dataset | TensorRows,
        optimizer: torch.optim.Optimizer,
        group: Group,
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.optimizer = optimizer
        self.group = group
        self.gradients = GradientSum(model.parameters(), group)
        self.reason = f"gradients are summed over {group.size} ranks"
        example = self.gradients.parameters[0]
        self.device, self.dtype = example.device, example.dtype

    def run(self, stretch: Stretch, seconds: float) -> list[float]:
        """As :meth:`aefast.training.engines.Engine.run`, and at the same step on each rank."""
        end = time.perf_counter() + seconds
        losses: list[float] = []
        step = stretch.first_step
        for minibatches, seed in zip(stretch.epochs(), stretch.seeds, strict=False):
            shares = [Share(self.group, len(rows)) for rows in minibatches]
            own = [rows[share.rows] for rows, share in zip(minibatches, shares, strict=True)]
            given = minibatches_of(self.dataset, own, self.device, self.dtype)
            for share, x in zip(shares, given, strict=True):
                loss, is_over = self._step(x, random.child_seed(seed, step), share, end)
                losses.append(loss)
                step += 1
                if is_over or not math.isfinite(loss):
                    self._gather_chains()
                    return losses
            step = 0
        self._gather_chains()
        return losses

    def _step(self, x: Tensor, seed: int, share: Share, end: float) -> tuple[float, bool]:
        """The whole minibatch's loss, after which the step is taken if it is a number; and whether
        time is over on some rank."""
        self.optimizer.zero_grad()
        error: Exception | None = None
        value = 0.0
        try:
            loss = loss_of_share(self.model, x, seed, share)
            if loss is not None:
                loss.backward()
                value = loss.item()
        except (ArithmeticError, TypeError, ValueError) as raised:  # the others wait for this rank
            error = raised
        figures = [value, float(time.perf_counter() >= end), float(error is not None)]
        value, over, errors = self.gradients.take(figures)
        if errors:
            self._raise(error)
        if math.isfinite(value):
            self.optimizer.step()
        return value, over > 0

    def _raise(self, error: Exception | None) -> None:
        """Its own error, or that of the first rank that has one."""
        messages = self.group.gather(None if error is None else str(error))
        if error is not None:
            raise error
        rank, message = next((r, m) for r, m in enumerate(messages) if m is not None)
        raise ValueError(f"on rank {rank}: {message}")

    @torch.no_grad()
    def _gather_chains(self) -> None:
        """Each rank has moved its own chains; what is saved and judged holds all of them."""
        chain = chains_of(self.model)
        if chain is None:
            return
        rows = self.group.rows_of(len(chain))
        whole = torch.zeros_like(chain)
        whole[rows] = chain[rows]
        self.group.add_up(whole).wait()
        chain.copy_(whole)
