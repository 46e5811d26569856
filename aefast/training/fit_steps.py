"""The steps of a call of ``aefast.fit``: over a dataset, or over batches of a function."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from aefast import random
from aefast.data.minibatches import order_of
from aefast.data.pairs import Pair
from aefast.distributed.agreement import agree, settings_of
from aefast.distributed.group import Group
from aefast.distributed.interrupts import Interrupts
from aefast.nn.trainable import Trainable
from aefast.ops.shared import checks
from aefast.step.minibatch_schedule import CHUNK_SECONDS, MinibatchSchedule
from aefast.training.arguments import Batches, check_takes_target
from aefast.training.engines import (
    Engine,
    Loss,
    TrainingLoop,
    check_finite,
    choice_key,
    choose_engine,
    choose_together,
    rows_at_once,
)
from aefast.training.held_out import Samples

# A callback is called after so long, at the end of a step.
CALLBACK_SECONDS = 0.25


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a call of :func:`aefast.fit`, which its callback receives.

    Attributes:
        step: the number of steps of this call so far.
        epoch: the current epoch, counted from 0.
        loss: the mean loss of the steps since the callback was last called.
        samples_per_second: the rows per second since then.
    """

    step: int
    epoch: int
    loss: float
    samples_per_second: float


Callback = Callable[[TrainingProgress], object]


def in_training(model: Trainable, callback: Callback) -> Callback:
    """The callback, after which the model is in training mode: it may evaluate it."""

    def called(progress: TrainingProgress) -> object:
        result = callback(progress)
        model.train()
        return result

    return called


class EpochSeed(NamedTuple):
    """The seeds of an epoch.

    Attributes:
        seed: the seed of the rows' order, as :func:`aefast.data.batches` takes it.
        epoch: the number of the epoch, as :func:`aefast.data.batches` takes it.
        draws: step n draws with ``random.child_seed(draws, n)``.
    """

    seed: int
    epoch: int
    draws: int


class CallSteps:
    """Takes the steps of a call, and calls its callback.

    Attributes:
        engine: takes the steps.
        is_watched: whether any rank has a callback: then all ranks pause for it together.
        interrupts: Ctrl-C, which ends the call after a step.
        losses: the loss of each step so far.
        is_stopped: whether a callback has ended the training.
    """

    def __init__(
        self,
        engine: Engine | TrainingLoop,
        optimizer: torch.optim.Optimizer,
        group: Group,
        callback: Callback | None,
    ) -> None:
        self.engine = engine
        self.optimizer = optimizer
        self.group = group
        (self.is_watched,) = group.any(callback is not None)
        self.callback = callback
        self.interrupts = Interrupts({})
        self.losses: list[float] = []
        self.is_stopped = False
        self.last_report, self.reported_steps, self.reported_samples = time.perf_counter(), 0, 0

    def take(self, epochs: Sequence[EpochSeed]) -> None:
        """Take the steps of these epochs."""
        raise NotImplementedError

    @property
    def epochs_begun(self) -> int:
        """The number of epochs so far, counting one that was broken off."""
        raise NotImplementedError

    def _report_progress(self, epoch: int, samples: int) -> bool:
        """Call the callback if it is due; ``samples`` is the number of rows so far.

        Returns:
            whether it was called, on this rank or another.

        Raises:
            KeyboardInterrupt: a rank got Ctrl-C.
        """
        now = time.perf_counter()
        is_interrupted, is_due = self.group.any(
            self.interrupts.have_come,
            self.is_watched and now - self.last_report >= CALLBACK_SECONDS,
        )
        if is_interrupted:
            raise KeyboardInterrupt
        if not is_due:
            return False
        steps = len(self.losses)
        new_losses = self.losses[self.reported_steps :]
        rate = (samples - self.reported_samples) / (now - self.last_report)
        progress = TrainingProgress(steps, epoch, sum(new_losses) / len(new_losses), rate)
        self.last_report, self.reported_steps, self.reported_samples = now, steps, samples
        callback = self.callback or (lambda progress: False)
        is_enough = self.group.together(lambda: callback(progress) is True)
        (self.is_stopped,) = self.group.any(is_enough)
        if self.group.size > 1:
            agree(self.group, settings_of(self.optimizer))  # the callback may have changed them
        return True


class StreamSteps(CallSteps):
    """Steps over the batches of a function, which is called once an epoch."""

    def __init__(
        self,
        steps: TrainingLoop,
        batches: Batches,
        group: Group,
        callback: Callback | None,
    ) -> None:
        super().__init__(steps, steps.optimizer, group, callback)
        self.steps = steps
        self.batches = batches
        self.epoch_count = self.samples = 0
        self.are_pairs = False  # until the first one

    @property
    def epochs_begun(self) -> int:
        return self.epoch_count

    def take(self, epochs: Sequence[EpochSeed]) -> None:
        for epoch in epochs:
            self.epoch_count += 1
            number = -1
            for number, batch in enumerate(self._begun()):
                x = self._checked(batch)
                rows = len(x.inputs if isinstance(x, Pair) else x)
                with self.interrupts.whole_step():
                    loss = float(self.steps.step(x, random.child_seed(epoch.draws, number)))
                    self.losses.append(loss)
                    self.samples += rows
                check_finite([loss], len(self.losses) - 1)
                self._report_progress(self.epoch_count - 1, self.samples)
                if self.is_stopped:
                    return
            if number < 0:
                raise ValueError("data gave no batch; it takes a function that gives them anew")

    def _begun(self) -> Iterable[object]:
        batches: object = self.batches()
        if not isinstance(batches, Iterable):
            raise TypeError(
                f"data gave a {type(batches).__name__}; it takes a function that gives batches, "
                "one after the other"
            )
        return batches

    def _checked(self, batch: object) -> Tensor | Pair:
        """A batch as the model takes it. A DataLoader gives a list, also of one tensor."""
        if not isinstance(batch, tuple | list):
            return self._checked_rows(batch)
        if len(batch) not in (1, 2):
            raise ValueError(
                f"data gave a {type(batch).__name__} of {len(batch)}; it takes batches, or pairs "
                "of inputs and targets"
            )
        if len(batch) == 2 and not self.are_pairs:
            check_takes_target(self.steps.model, "a batch of data")
            self.are_pairs = True
        first, *targets = map(self._checked_rows, batch)
        return Pair(first, *targets) if targets else first

    def _checked_rows(self, batch: object) -> Tensor:
        if not isinstance(batch, Tensor):
            raise TypeError(f"data gave a {type(batch).__name__}; it takes batches, torch.Tensor")
        if not batch.is_floating_point():
            raise TypeError(
                f"data gave dtype {checks.dtype_name(batch)}; of a function it takes floats, on "
                "the model's scale"
            )
        if batch.dim() < 2 or batch.numel() == 0:
            raise ValueError(f"data gave shape {list(batch.shape)}; it takes batches [B, D]")
        return batch.detach().reshape(len(batch), -1).to(self.steps.device, self.steps.dtype)


class EngineChoice(NamedTuple):
    """The arguments of :func:`choose_engine`, which all ranks call together."""

    model: Trainable
    dataset: Samples
    optimizer: torch.optim.Optimizer
    loss: Loss
    batch_size: int
    group: Group
    micro_batch_size: int | None

    def engine(self) -> Engine:
        return choose_together(self.group, lambda: choose_engine(*self))

    def key(self) -> list[object]:
        rows = rows_at_once(self.dataset, self.batch_size, self.group, self.micro_batch_size)
        return self.group.together(
            lambda: choice_key(self.model, self.dataset, self.optimizer, rows)
        )


class DatasetSteps(CallSteps):
    """Takes the steps over a dataset's rows, in chunks of ``CHUNK_SECONDS``; in a group, whose
    ranks wait for each other three times a chunk, of ``CALLBACK_SECONDS``."""

    engine: Engine

    def __init__(
        self,
        choice: EngineChoice,
        shuffle: bool,
        callback: Callback | None,
    ) -> None:
        super().__init__(choice.engine(), choice.optimizer, choice.group, callback)
        self.choice = choice
        self.key = choice.key() if self.is_watched else None
        self.dataset = choice.dataset
        self.rows = len(self.dataset)
        self.batch_size = choice.batch_size
        self.steps_per_epoch = -(-self.rows // self.batch_size)
        self.shuffle = shuffle

    def take(self, epochs: Sequence[EpochSeed]) -> None:
        order = torch.cat([self._order(epoch) for epoch in epochs])
        schedule = MinibatchSchedule(
            order, self.batch_size, self.rows, [epoch.draws for epoch in epochs]
        )
        first, remaining = len(self.losses), schedule
        seconds = CHUNK_SECONDS if self.group.size == 1 else CALLBACK_SECONDS
        while len(remaining.order) and not self.is_stopped:
            steps_before = len(self.losses)
            with self.interrupts.whole_step(is_undone=self.engine.name == "step"):
                self.losses += self.engine.run(remaining, seconds)
            check_finite(self.losses[steps_before:], steps_before)
            remaining = schedule.after(len(self.losses) - first)
            steps = len(self.losses)
            if self._report_progress((steps - 1) // self.steps_per_epoch, self._rows_before(steps)):
                self._choose_again()

    def _choose_again(self) -> None:
        """Choose an engine again if a callback on some rank changed what the choice depends on."""
        key = self.choice.key()
        (is_other,) = self.group.any(key != self.key)
        if is_other:
            self.engine, self.key = self.choice.engine(), key

    @property
    def epochs_begun(self) -> int:
        return -(-len(self.losses) // self.steps_per_epoch)

    def _order(self, epoch: EpochSeed) -> Tensor:
        if self.shuffle:
            return order_of(self.dataset, self.rows, epoch.seed, epoch.epoch)
        return torch.arange(self.rows, dtype=torch.int64, device="cpu")

    def _rows_before(self, step: int) -> int:
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch * self.rows + batch * self.batch_size
