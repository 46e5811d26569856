"""The training loop: step after step, to the same bits however often it stops."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aefast import random
from aefast.data import Dataset, batches
from aefast.nn import RBM, DeepBeliefStack
from aefast.training.checkpoint import Checkpoint
from aefast.training.config import Progress
from aefast.training.models import MODELS

# A line of metrics every so many steps. Between two looks nothing waits for a device.
LINE_STEPS = 100
LOOK_SECONDS = 0.25
SAVE_SECONDS = 30.0

# How many steps' seeds are made at once: one by one, each takes as long as a small kernel.
SEEDS_AT_ONCE = 256


class DivergenceError(ArithmeticError):
    """One line that names the step after which training makes no sense."""


@dataclass(frozen=True)
class Stage:
    """What is trained at a time, by one optimizer.

    Attributes:
        label: for people.
        module: its parameters are trained.
        loss: of a batch ``[B, D]`` and a seed, a scalar.
    """

    label: str
    module: nn.Module
    loss: Callable[[Tensor, int], Tensor]


def stages(model: nn.Module) -> list[Stage]:
    """The one stage that most models have; of a stack one for each machine, from the data up."""
    if not isinstance(model, DeepBeliefStack):
        return [_stage("model", model, [])]
    machines = list(model)
    return [
        _stage(f"machine {layer + 1} of {len(machines)}", machine, machines[:layer])
        for layer, machine in enumerate(machines)
    ]


def _stage(label: str, module: Any, below: list[RBM]) -> Stage:
    def loss(x: Tensor, seed: int) -> Tensor:
        with torch.no_grad():
            for machine in below:
                x = machine(x)
        return module.loss(x, seed=seed)

    return Stage(label, module, loss)


class Trainer:
    """A run under way: takes its steps, and knows at every moment where it stands.

    From the run's seed descend one for each step's noise, and one for each stage's shuffles.

    Args:
        checkpoint: where it starts; its model and progress move on with the steps.
        dataset: what it is trained on.

    Raises:
        ValueError: the checkpoint's progress or optimizer is not of its model and this dataset.
    """

    def __init__(self, checkpoint: Checkpoint, dataset: Dataset) -> None:
        self.config, self.progress = checkpoint.config, checkpoint.progress
        self.model = checkpoint.model.to(self.config.device).train()
        self.dataset = dataset
        self.stages = stages(self.model)
        self.steps_per_epoch = math.ceil(len(dataset) / self.config.batch_size)
        self._check_progress()
        self.optimizer = self._make_optimizer()
        self._check_optimizer(checkpoint.optimizer)
        if checkpoint.optimizer:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": checkpoint.optimizer, "param_groups": groups})

    def _check_progress(self) -> None:
        progress, epochs = self.progress, self.config.epochs
        is_inside = progress.epoch < epochs and 0 <= progress.batch < self.steps_per_epoch
        is_over = progress.epoch == epochs and progress.batch == 0
        if not (0 <= progress.stage < len(self.stages) and progress.epoch >= 0):
            raise ValueError(f"stage {progress.stage}, epoch {progress.epoch} is none of the run's")
        if not (is_inside or is_over):
            raise ValueError(
                f"epoch {progress.epoch}, batch {progress.batch} is none of {epochs} epochs of "
                f"{self.steps_per_epoch} batches"
            )

    def _check_optimizer(self, state: dict[int, dict[str, Tensor]]) -> None:
        """One that was given the state of other parameters would read beyond their memory."""
        parameters = list(self.stage.module.parameters())
        if state and sorted(state) != list(range(len(parameters))):
            raise ValueError(f"the optimizer's state is of parameters {sorted(state)}")
        for number, parameter in enumerate(parameters if state else ()):
            for name, tensor in state[number].items():
                if tensor.shape not in ((), parameter.shape):
                    raise ValueError(f"optimizer.{number}.{name} has shape {list(tensor.shape)}")

    @property
    def stage(self) -> Stage:
        return self.stages[self.progress.stage]

    @property
    def is_stage_over(self) -> bool:
        return self.progress.epoch >= self.config.epochs

    @property
    def is_finished(self) -> bool:
        return self.is_stage_over and self.progress.stage == len(self.stages) - 1

    @property
    def steps_left(self) -> int:
        progress = self.progress
        stages_after = len(self.stages) - 1 - progress.stage
        epochs_left = self.config.epochs * (1 + stages_after) - progress.epoch
        return epochs_left * self.steps_per_epoch - progress.batch

    def checkpoint(self) -> Checkpoint:
        """The run as it stands.

        Raises:
            DivergenceError: a parameter is infinite or NaN.
        """
        sums = torch.stack([parameter.detach().sum() for parameter in self.model.parameters()])
        if not sums.isfinite().all():
            raise DivergenceError(f"a parameter is not finite after step {self.progress.step}")
        state = self.optimizer.state_dict()["state"]
        return Checkpoint(self.config, self.progress, self.model, state)

    def steps(self) -> Iterator[Tensor]:
        """Take the steps that are left; of each its loss, a scalar that no one has waited for."""
        while True:
            yield from self._stage_steps()
            if self.is_finished:
                return
            self.progress.stage += 1
            self.progress.epoch = 0
            self.optimizer = self._make_optimizer()

    def _stage_steps(self) -> Iterator[Tensor]:
        progress, optimizer, loss_of = self.progress, self.optimizer, self.stage.loss
        seeds = child_seeds(random.child_seed(self.config.seed, 0), progress.step)
        order_seed = random.child_seed(self.config.seed, 1 + progress.stage)
        while not self.is_stage_over:
            for x in batches(
                self.dataset,
                self.config.batch_size,
                seed=order_seed,
                epoch=progress.epoch,
                start=progress.batch,
                device=self.config.device,
            ):
                optimizer.zero_grad()
                loss = loss_of(x, next(seeds))
                loss.backward()
                optimizer.step()
                progress.step += 1
                progress.samples += len(x)
                progress.batch += 1
                if progress.batch == self.steps_per_epoch:
                    progress.epoch += 1
                    progress.batch = 0
                yield loss.detach()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        make = MODELS[self.config.model].optimizer
        return make(self.stage.module.parameters(), self.config.learning_rate)


def child_seeds(seed: int, first: int) -> Iterator[int]:
    """``random.child_seed(seed, first)``, that of ``first + 1``, and so on, many at a time.

    >>> seeds = child_seeds(3, 1000)
    >>> [next(seeds), next(seeds)] == [random.child_seed(3, 1000), random.child_seed(3, 1001)]
    True
    """
    while True:
        words = random.words(seed, SEEDS_AT_ONCE, 2, step=random.Step.CHILD_SEED, row_offset=first)
        yield from ((words[:, 0] << 32 | words[:, 1]) & (random.SEED_LIMIT - 1)).tolist()
        first += SEEDS_AT_ONCE


@dataclass(frozen=True)
class Look:
    """What a run shows now and then: both since the last look.

    Attributes:
        loss: the mean of the steps'.
        samples_per_second: the throughput.
    """

    loss: float
    samples_per_second: float


class _Watch:
    """Reads the losses that the steps leave behind, and the clock."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.unread: list[Tensor] = []
        self.samples = self.line_samples = progress.samples
        self.line_seconds = progress.seconds
        self.looked = time.perf_counter()

    def look(self) -> Look:
        losses = torch.stack(self.unread).tolist()
        before = self.progress.step - len(losses)
        for number, loss in enumerate(losses, start=before + 1):
            if not math.isfinite(loss):
                raise DivergenceError(f"the loss of step {number} is {loss}")
        now = time.perf_counter()
        seconds, samples = now - self.looked, self.progress.samples - self.samples
        self.unread, self.looked, self.samples = [], now, self.progress.samples
        self.progress.losses += losses
        self.progress.seconds += seconds
        return Look(statistics.fmean(losses), samples / seconds)

    def line(self, stage: str) -> dict[str, Any]:
        """The metrics since the last line."""
        progress = self.progress
        seconds = progress.seconds - self.line_seconds
        samples = progress.samples - self.line_samples
        loss = statistics.fmean(progress.losses)
        progress.losses = []
        self.line_samples, self.line_seconds = progress.samples, progress.seconds
        return {
            "step": progress.step,
            "epoch": progress.epoch,
            "stage": stage,
            "loss": loss,
            "samples_per_second": samples / seconds,
            "seconds": progress.seconds,
        }


def train(
    trainer: Trainer,
    *,
    save: Callable[[Checkpoint], None],
    write: Callable[[dict[str, Any]], None],
    show: Callable[[Look], None],
    is_stopped: Callable[[], bool],
) -> None:
    """Train until the last epoch is over, or ``is_stopped`` between two steps; then save.

    Args:
        trainer: the run.
        save: called every half a minute, and at the end.
        write: called with a line of metrics every :data:`LINE_STEPS` steps and after each stage.
        show: called a few times a second.
        is_stopped: called after each step.

    Raises:
        DivergenceError, FloatingPointError: the message names the step; nothing was saved since a
            step at which all was well.
    """
    watch = _Watch(trainer.progress)
    saved = watch.looked
    for loss in trainer.steps():
        watch.unread.append(loss)
        is_line = trainer.progress.step % LINE_STEPS == 0 or trainer.is_stage_over
        is_last = is_stopped()
        is_due = time.perf_counter() - watch.looked >= LOOK_SECONDS
        if not (is_line or is_last or is_due):
            continue
        show(watch.look())
        if is_line:
            write(watch.line(trainer.stage.label))
        if is_last:
            break
        if watch.looked - saved >= SAVE_SECONDS:
            save(trainer.checkpoint())
            saved = watch.looked = time.perf_counter()  # it was no training
    save(trainer.checkpoint())
