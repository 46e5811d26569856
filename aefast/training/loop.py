"""The training loop: step after step, to the same bits however often it stops."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aefast import random
from aefast.data import Dataset
from aefast.data.minibatches import epoch_order, order_of
from aefast.data.pairs import Pair, PairedRows
from aefast.distributed.group import current
from aefast.messages import cut
from aefast.nn import RBM, DeepBeliefStack
from aefast.nn.dictionary import SparseDictionary
from aefast.step.stretch import Stretch
from aefast.training.checkpoint import Checkpoint
from aefast.training.config import Config, Progress
from aefast.training.engines import DivergenceError, Engine, check_finite, choose
from aefast.training.fit import held_out_loss, loss_of
from aefast.training.judging import figures_of, watched
from aefast.training.models import MODELS, Kind

# A line of metrics every so many steps. Between two looks nothing waits for a device.
LINE_STEPS = 100
LOOK_SECONDS = 0.25
CHUNK_SECONDS = 0.05  # the most that a call of the kernels takes before Ctrl-C is heard
SAVE_SECONDS = 30.0

# What each optimizer keeps of a parameter, and whether that has the parameter's shape.
STATE_OF: dict[type[torch.optim.Optimizer], dict[str, bool]] = {
    torch.optim.Adam: {"step": False, "exp_avg": True, "exp_avg_sq": True},
    torch.optim.SGD: {"momentum_buffer": True},
}

# Which of the run's seeds says what rows are held out: none of a step's or a stage's.
SPLIT = 2**32

# The features of lower machines are made this many rows at a time.
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Stage:
    """What is trained at a time, by one optimizer.

    Attributes:
        label: for people.
        module: its parameters are trained.
        loss: of a batch ``[B, D]``, or of pairs, and a seed: a scalar.
        below: the machines of a stack whose features it is trained on.
    """

    label: str
    module: nn.Module
    loss: Callable[[Tensor | Pair, int], Tensor]
    below: tuple[RBM, ...] = ()


def stages(model: nn.Module) -> list[Stage]:
    """The one stage that most models have; of a stack one for each machine, from the data up."""
    if not isinstance(model, DeepBeliefStack):
        return [_stage("model", model, ())]
    machines = list(model)
    return [
        _stage(f"machine {layer + 1} of {len(machines)}", machine, tuple(machines[:layer]))
        for layer, machine in enumerate(machines)
    ]


def _stage(label: str, module: Any, below: tuple[RBM, ...]) -> Stage:
    return Stage(label, module, lambda x, seed: loss_of(module, x, seed), below)


@torch.no_grad()
def features(dataset: Dataset | PairedRows, machines: tuple[RBM, ...]) -> Dataset | PairedRows:
    """The topmost features of a dataset's rows, in memory; the dataset itself without machines."""
    if not machines or isinstance(dataset, PairedRows):
        return dataset
    device = machines[0].weight.device
    parts = []
    for first in range(0, len(dataset), ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, len(dataset))
        x = dataset.take(torch.arange(first, last, dtype=torch.int64, device="cpu")).to(device)
        for machine in machines:
            x = machine(x)
        parts.append(x.cpu().numpy())
    rows = np.concatenate(parts)
    return Dataset(rows, rows.shape[1:], 1.0, dataset.name, 0.0, 1.0, 0)


def split(dataset: Dataset | PairedRows, config: Config) -> tuple[Tensor, Tensor]:
    """The rows that a run holds out, and those that it is trained on: int64, in their order.

    Raises:
        ValueError: one of both would have none.
    """
    count = round(config.validation * len(dataset))
    if not (1 if config.validation else 0) <= count < len(dataset):
        raise ValueError(
            f"validation is {config.validation}, which holds out {count} of {len(dataset)} rows; "
            "it takes a share that leaves rows on both sides"
        )
    order = epoch_order(len(dataset), random.child_seed(config.seed, SPLIT), 0)
    return order[:count].sort().values, order[count:].sort().values


class Trainer:
    """A run under way: takes its steps, and knows at every moment where it stands.

    From the run's seed descend one for each step's noise, one for each stage's shuffles, and one
    for which rows are held out.

    In a process group each rank has a trainer of its own, which takes its rows of each minibatch,
    and all of them stand at the same step.

    Args:
        checkpoint: where it starts; its model and progress move on with the steps.
        dataset: what it is trained on, but for the rows that are held out.

    Attributes:
        trained: the rows that it is trained on, int64.
        held_out: those that it is judged by, int64; none without ``validation``.
        figures: what they say of the model, where its last step ended an epoch.

    Raises:
        ValueError: the checkpoint's progress or optimizer is not of its model and this dataset.
    """

    def __init__(self, checkpoint: Checkpoint, dataset: Dataset | PairedRows) -> None:
        self.config, self.progress = checkpoint.config, checkpoint.progress
        self.model = checkpoint.model.to(self.config.device).train()
        self.dataset = dataset
        self.group = current()
        self.stages = stages(self.model)
        self.held_out, self.trained = split(dataset, self.config)
        self.figures: dict[str, float] = {}
        self.steps_per_epoch = math.ceil(len(self.trained) / self.config.batch_size)
        self._check_progress()
        self.optimizer = self._make_optimizer()
        self._check_optimizer(checkpoint.optimizer)
        if checkpoint.optimizer:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": checkpoint.optimizer, "param_groups": groups})
        self._engine_of = (-1, 0.0)
        self._order_of = (-1, -1)

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
        state_names = STATE_OF[type(self.optimizer)]
        for number, parameter in enumerate(parameters if state else ()):
            if state[number].keys() != state_names.keys():
                raise ValueError(
                    f"optimizer.{number} holds {cut(', '.join(state[number]))}; it takes "
                    f"{', '.join(state_names)}"
                )
            for name, tensor in state[number].items():
                shape = parameter.shape if state_names[name] else torch.Size()
                if tensor.shape != shape or tensor.dtype != torch.float32:
                    raise ValueError(
                        f"optimizer.{number}.{name} has shape {list(tensor.shape)} and dtype "
                        f"{tensor.dtype}; it takes {list(shape)} and {torch.float32}"
                    )

    @property
    def kind(self) -> Kind:
        return MODELS[self.config.model]

    @property
    def stage(self) -> Stage:
        return self.stages[self.progress.stage]

    @property
    def is_stage_over(self) -> bool:
        return self.progress.epoch >= self.config.epochs or self.is_out_of_patience

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the stage's last epochs were all worse than the one before them."""
        return 0 < self.config.patience < len(self.progress.held_out)

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

    def take(self, most_steps: int, seconds: float) -> list[float]:
        """The losses of the next steps: as many, or what ``seconds`` allow, or the epoch's last.

        Raises:
            DivergenceError: a loss is not finite; its step was not taken.
            FloatingPointError: as :meth:`aefast.nn.RBM.loss`.
        """
        if self.is_stage_over:
            self._next_stage()
        progress, size = self.progress, self.config.batch_size
        self._follow_schedules()
        first = progress.batch * size
        stretch = Stretch(
            order=self._epoch_order()[first : first + most_steps * size],
            batch_size=size,
            epoch_rows=len(self.trained),
            seeds=[random.child_seed(self.config.seed, 0)],
            first_step=progress.step,
        )
        losses = self._engine().run(stretch, seconds)
        check_finite(losses, progress.step)
        progress.step += len(losses)
        progress.batch += len(losses)
        progress.samples += min(progress.batch * size, len(self.trained)) - first
        if progress.batch == self.steps_per_epoch:
            progress.epoch += 1
            progress.batch = 0
        is_judged = progress.batch == 0 and len(self.held_out) > 0
        self.figures = self._judge() if is_judged else {}
        return losses

    def line_figures(self) -> dict[str, float]:
        """What a line of metrics says of the model beside its loss: of held-out rows, after an
        epoch; where there are none a model whose loss says little is judged by some others."""
        if len(self.held_out) > 0:
            return self.figures
        return figures_of(self.stage.module, self._stage_rows, self.trained)

    def _judge(self) -> dict[str, float]:
        """The figures of the held-out rows, of which patience takes note.

        Raises:
            DivergenceError: one is not finite.
        """
        module, progress = self.stage.module, self.progress
        self._weigh_divergence(1.0)
        loss = held_out_loss(module, self._stage_rows, self.config.batch_size, self.held_out)
        figures = {"held_out_loss": loss}
        figures |= figures_of(module, self._stage_rows, self.held_out)
        figures = self.group.of_first(figures)  # patience ends all ranks at the same epoch
        for name, value in figures.items():
            if not math.isfinite(value):
                raise DivergenceError(f"the {name} after step {progress.step} is {value}")
        if self.config.patience:
            value = watched(figures)
            is_better = not progress.held_out or value < progress.held_out[0]
            progress.held_out = [value] if is_better else [*progress.held_out, value]
        return figures

    def _follow_schedules(self) -> None:
        """The learning rate and the divergence's weight are functions of the epoch."""
        epoch, config = self.progress.epoch, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * config.learning_rate_decay**epoch
        self._weigh_divergence(min(1.0, epoch / config.kl_warm_up) if config.kl_warm_up else 1.0)

    def _weigh_divergence(self, share: float) -> None:
        if "kl_weight" in self.config.options:
            self.model.kl_weight = share * self.config.options["kl_weight"]

    def _next_stage(self) -> None:
        self.progress.stage += 1
        self.progress.epoch = 0
        self.progress.held_out = []
        self.optimizer = self._make_optimizer()

    def _engine(self) -> Engine:
        """What takes the steps of the stage under way."""
        # The kernels take the divergence's weight as it is when they are chosen.
        key = self.progress.stage, getattr(self.model, "kl_weight", 1.0)
        if self._engine_of != key:
            rows = features(self.dataset, self.stage.below)
            self._stage_engine = choose(
                self.stage.module, rows, self.optimizer, self.stage.loss, self.group
            )
            self._stage_rows = rows
            self._engine_of = key
        return self._stage_engine

    def _epoch_order(self) -> Tensor:
        """The rows of the epoch under way, in their order."""
        key = self.progress.stage, self.progress.epoch
        if self._order_of != key:
            seed = random.child_seed(self.config.seed, 1 + self.progress.stage)
            order = order_of(self.dataset, len(self.trained), seed, self.progress.epoch)
            self._order = self.trained[order]
            self._order_of = key
        return self._order

    def _make_optimizer(self) -> torch.optim.Optimizer:
        module = self.stage.module
        optimizer = self.kind.optimizer(module.parameters(), self.config.learning_rate)
        if isinstance(module, SparseDictionary):
            module.keep_unit_norm(optimizer)
        return optimizer


@dataclass(frozen=True)
class Look:
    """What a run shows now and then: both since the last look.

    Attributes:
        loss: the mean of the steps'.
        samples_per_second: the throughput, in rows.
        figures: what the last lines of metrics said of the model beside its loss.
    """

    loss: float
    samples_per_second: float
    figures: dict[str, float] = field(default_factory=dict)


class _Watch:
    """Reads the losses that the steps leave behind, and the clock."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.unread: list[float] = []
        self.samples = self.line_samples = progress.samples
        self.line_seconds = 0.0
        self.looked = time.perf_counter()
        self.figures: dict[str, float] = {}

    def look(self) -> Look:
        losses, self.unread = self.unread, []
        now = time.perf_counter()
        seconds, samples = now - self.looked, self.progress.samples - self.samples
        self.looked, self.samples = now, self.progress.samples
        self.progress.losses += losses
        self.progress.seconds += seconds
        self.line_seconds += seconds
        return Look(statistics.fmean(losses), samples / seconds, dict(self.figures))

    def line(self, stage: str, rows: str) -> dict[str, Any]:
        """The metrics since the last line, in which rows are called ``rows``."""
        progress, seconds = self.progress, self.line_seconds
        samples = progress.samples - self.line_samples
        loss = statistics.fmean(progress.losses)
        progress.losses = []
        self.line_samples, self.line_seconds = progress.samples, 0.0
        return {
            "step": progress.step,
            "epoch": progress.epoch,
            "stage": stage,
            "loss": loss,
            f"{rows}_per_second": samples / seconds,
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
        write: called with a line of metrics every :data:`LINE_STEPS` steps, after each stage and,
            where rows are held out, after each epoch.
        show: called a few times a second.
        is_stopped: called after each chunk of steps, a twentieth of a second or one step.

    Raises:
        DivergenceError, FloatingPointError: the message names the step; nothing was saved since a
            step at which all was well.
    """
    watch = _Watch(trainer.progress)
    saved = watch.looked
    while not trainer.is_finished:
        watch.unread += trainer.take(LINE_STEPS - trainer.progress.step % LINE_STEPS, CHUNK_SECONDS)
        is_line = (
            trainer.progress.step % LINE_STEPS == 0
            or trainer.is_stage_over
            or bool(trainer.figures)
        )
        now = time.perf_counter()
        is_last, is_due, is_to_be_saved = trainer.group.any(
            is_stopped(), now - watch.looked >= LOOK_SECONDS, now - saved >= SAVE_SECONDS
        )
        if not (is_line or is_last or is_due):
            continue
        figures = trainer.line_figures() if is_line else {}
        watch.figures |= figures
        show(watch.look())
        if is_line:
            write({**watch.line(trainer.stage.label, trainer.kind.rows), **figures})
        if is_last:
            break
        if is_to_be_saved:
            save(trainer.checkpoint())
            saved = watch.looked = time.perf_counter()  # it was no training
    save(trainer.checkpoint())
    trainer.group.any(False)  # no rank leaves before the one that saves has done so
