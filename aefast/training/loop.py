"""The training loop of ``aefast train``. A run that stopped and resumed has the same bits."""

import math
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from aefast import random
from aefast.data import Dataset
from aefast.data.minibatches import epoch_order, order_of
from aefast.data.pairs import PairedRows
from aefast.distributed.group import current
from aefast.messages import cut
from aefast.nn import RBM, DeepBeliefStack, DictionaryAdam, TopKSparseAutoencoder
from aefast.nn.dictionary import SparseDictionary
from aefast.nn.trainable import Trainable
from aefast.step.minibatch_schedule import MinibatchSchedule
from aefast.training.checkpoint import BestEpoch, Checkpoint
from aefast.training.config import Config, RunProgress
from aefast.training.engines import (
    DivergenceError,
    Engine,
    Loss,
    check_finite,
    choose_engine,
    choose_together,
)
from aefast.training.evaluation import (
    early_stopping_metric,
    held_out_loss,
    loss_of,
    metrics_of,
)
from aefast.training.metrics import Line
from aefast.training.models import MODELS, Kind

LINE_STEPS = 100  # from one line of metrics to the next
# From one update of the progress bar to the next. Only an update waits for a GPU's losses.
STATUS_SECONDS = 0.25
CHUNK_SECONDS = 0.05  # the most that a call of the kernels takes before Ctrl-C is heard
SAVE_SECONDS = 30.0

# The tensors of an optimizer's state: True where one has its parameter's shape, False for a scalar.
ADAM_STATE = {"step": False, "exp_avg": True, "exp_avg_sq": True}
OPTIMIZER_STATE: dict[type[torch.optim.Optimizer], dict[str, bool]] = {
    torch.optim.Adam: ADAM_STATE,
    DictionaryAdam: ADAM_STATE,
    torch.optim.SGD: {"momentum_buffer": True},
}

# From here on a float32 counts no further.
LARGEST_FLOAT32_COUNT = 2**24

# The child seed that chooses the held-out rows. Steps have child 0, the stages 1, 2, ...
SPLIT_CHILD = 2**32

# Rows per block when a stack's lower machines compute the features.
FEATURE_ROWS = 4096


@dataclass(frozen=True)
class Stage:
    """A whole model, or one machine of a stack: what one optimizer trains.

    Attributes:
        label: its name in messages and metrics.
        module: its parameters are trained.
        loss: from a batch ``[B, D]``, or a pair of inputs and targets, and a seed to a scalar.
        below: a stack's lower machines; the features of the last one are what it is trained on.
    """

    label: str
    module: Trainable
    loss: Loss
    below: tuple[RBM, ...] = ()


def stages(model: nn.Module) -> list[Stage]:
    """A stack's stages, a machine each from the data up; any other model is one stage."""
    if not isinstance(model, DeepBeliefStack):
        return [_stage("model", cast(Trainable, model), ())]
    machines = list(model)
    return [
        _stage(f"machine {layer + 1} of {len(machines)}", machine, tuple(machines[:layer]))
        for layer, machine in enumerate(machines)
    ]


def _stage(label: str, module: Trainable, below: tuple[RBM, ...]) -> Stage:
    return Stage(label, module, lambda x, seed: loss_of(module, x, seed), below)


@torch.no_grad()
def features(dataset: Dataset | PairedRows, machines: tuple[RBM, ...]) -> Dataset | PairedRows:
    """The last machine's features ``[N, H]`` of a dataset's rows, in memory. Without machines it is
    the dataset itself, and so are pairs, which no stack is trained on."""
    if not machines or isinstance(dataset, PairedRows):
        return dataset
    device = machines[0].weight.device
    blocks = []
    for first in range(0, len(dataset), FEATURE_ROWS):
        last = min(first + FEATURE_ROWS, len(dataset))
        x = dataset.take(torch.arange(first, last, dtype=torch.int64, device="cpu")).to(device)
        for machine in machines:
            x = machine(x)
        blocks.append(x.cpu().numpy())
    rows = np.concatenate(blocks)
    return Dataset(rows, rows.shape[1:], 1.0, dataset.name, 0.0, 1.0, 0)


def split(dataset: Dataset | PairedRows, config: Config) -> tuple[Tensor, Tensor]:
    """The numbers of the held-out rows and of the training rows, int64, each in ascending order.

    Raises:
        ValueError: either would be empty.
    """
    count = round(config.validation * len(dataset))
    if not (1 if config.validation else 0) <= count < len(dataset):
        raise ValueError(
            f"validation is {config.validation}, which holds out {count} of {len(dataset)} rows; "
            "it takes a share that leaves rows on both sides"
        )
    order = epoch_order(len(dataset), random.child_seed(config.seed, SPLIT_CHILD), 0)
    return order[:count].sort().values, order[count:].sort().values


class Trainer:
    """Takes the steps of a run, from where its checkpoint stands.

    The run's seed has child seeds for the steps' noise, for each stage's shuffles and for the
    choice of the held-out rows.

    In a process group each rank has a trainer, which takes its rows of each minibatch. All ranks
    are at the same step.

    Args:
        checkpoint: where the run starts. Its model and progress change with each step.
        dataset: the training rows and the held-out ones.

    Attributes:
        trained: the numbers of the training rows, int64.
        held_out: the numbers of the held-out rows, int64; empty without ``validation``.
        metrics: of the held-out rows, after the last step of an epoch; else empty.
        best: the stage's best epoch, with ``patience``; None before the first one here.

    Raises:
        ValueError: the checkpoint's progress or optimizer does not fit its model and this dataset.
    """

    def __init__(self, checkpoint: Checkpoint, dataset: Dataset | PairedRows) -> None:
        self.config, self.progress = checkpoint.config, checkpoint.progress
        self.model = checkpoint.model.to(self.config.device).train()
        self.dataset = dataset
        self.group = current()
        self.stages = stages(self.model)
        self.held_out, self.trained = split(dataset, self.config)
        self.metrics: dict[str, float] = {}
        self.best: BestEpoch | None = None
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
        """One that was given the state of other parameters would read beyond their memory, and one
        of other numbers would spoil the model."""
        parameters = list(self.stage.module.parameters())
        if not state and self._steps_of_stage == 0:
            return
        if sorted(state) != list(range(len(parameters))):
            raise ValueError(
                f"the optimizer's state is of parameters {cut(sorted(state))}; there are "
                f"{len(parameters)}, after {self._steps_of_stage} steps"
            )
        state_names = OPTIMIZER_STATE[type(self.optimizer)]
        for number, parameter in enumerate(parameters):
            if state[number].keys() != state_names.keys():
                raise ValueError(
                    f"optimizer.{number} holds {cut(', '.join(state[number]))}; it takes "
                    f"{', '.join(state_names)}"
                )
            for name, tensor in state[number].items():
                shape = parameter.shape if state_names[name] else torch.Size()
                if tensor.shape != shape or tensor.dtype != torch.float32:
                    raise ValueError(
                        f"optimizer.{number}.{name} has shape {cut(list(tensor.shape))} and dtype "
                        f"{tensor.dtype}; it takes {list(shape)} and {torch.float32}"
                    )
                self._check_numbers(tensor, f"optimizer.{number}.{name}")

    def _check_numbers(self, tensor: Tensor, name: str) -> None:
        """Check the numbers of a parameter's state in a file that anybody may have changed."""
        if name.endswith(".step"):
            steps_taken = min(self._steps_of_stage, LARGEST_FLOAT32_COUNT)
            is_right, takes = tensor == steps_taken, f"{steps_taken}, the steps that were taken"
        elif name.endswith(".exp_avg_sq"):
            is_right, takes = tensor.isfinite() & (tensor >= 0), "finite numbers from 0 up"
        else:
            is_right, takes = tensor.isfinite(), "finite numbers"
        if not is_right.all():
            raise ValueError(f"{name} holds {tensor[~is_right][0].item():g}; it takes {takes}")

    @property
    def _steps_of_stage(self) -> int:
        """The steps that the optimizer has taken."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.batch

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
        """Whether ``patience`` epochs have passed since the stage's best one."""
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
        """The run after its last step.

        Raises:
            DivergenceError: a parameter is infinite or NaN.
        """
        sums = torch.stack([parameter.detach().sum() for parameter in self.model.parameters()])
        if not sums.isfinite().all():
            raise DivergenceError(f"a parameter is not finite after step {self.progress.step}")
        state = self.optimizer.state_dict()["state"]
        return Checkpoint(self.config, self.progress, self.model, state, self.best)

    def take(self, most_steps: int, seconds: float) -> list[float]:
        """Take the next steps; their losses.

        It stops after ``most_steps``, after ``seconds``, or at the end of the epoch.

        Raises:
            DivergenceError: a loss is not finite; its step was not taken.
            FloatingPointError: as :meth:`aefast.nn.RBM.loss`.
        """
        if self.is_stage_over:
            self._next_stage()
        progress, size = self.progress, self.config.batch_size
        self._follow_schedules()
        first = progress.batch * size
        schedule = MinibatchSchedule(
            order=self._epoch_order()[first : first + most_steps * size],
            batch_size=size,
            epoch_rows=len(self.trained),
            seeds=[random.child_seed(self.config.seed, 0)],
            first_step=progress.step,
        )
        losses = self._engine().run(schedule, seconds)
        check_finite(losses, progress.step)
        progress.step += len(losses)
        progress.batch += len(losses)
        progress.samples += min(progress.batch * size, len(self.trained)) - first
        if progress.batch == self.steps_per_epoch:
            progress.epoch += 1
            progress.batch = 0
        is_evaluated = progress.batch == 0 and len(self.held_out) > 0
        self.metrics = self._evaluate() if is_evaluated else {}
        return losses

    def line_metrics(self) -> dict[str, float]:
        """The model's metrics for a line: of the held-out rows, after an epoch. Without held-out
        rows those of some training rows, for a model whose loss alone says little."""
        if len(self.held_out) > 0:
            return self.metrics
        return metrics_of(self.stage.module, self._stage_rows, self.trained)

    def _evaluate(self) -> dict[str, float]:
        """The metrics of the held-out rows, which early stopping (``patience``) takes note of.

        Raises:
            DivergenceError: one is not finite.
        """
        module, progress = self.stage.module, self.progress
        self._set_kl_weight(1.0)
        loss = held_out_loss(module, self._stage_rows, self.config.batch_size, self.held_out)
        metrics = {"held_out_loss": loss}
        metrics |= metrics_of(module, self._stage_rows, self.held_out)
        metrics = self.group.broadcast_object(metrics)  # patience ends all ranks at the same epoch
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergenceError(f"the {name} after step {progress.step} is {value}")
        if self.config.patience:
            value = early_stopping_metric(metrics)
            is_better = not progress.held_out or value < progress.held_out[0]
            progress.held_out = [value] if is_better else [*progress.held_out, value]
            if is_better:
                state = self.model.state_dict().items()
                copied = {name: tensor.to("cpu", copy=True) for name, tensor in state}
                self.best = BestEpoch(deepcopy(progress), copied)
        return metrics

    def _follow_schedules(self) -> None:
        """Set the epoch's learning rate and weight of the KL divergence."""
        epoch, config = self.progress.epoch, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * config.learning_rate_decay**epoch
        self._set_kl_weight(min(1.0, epoch / config.kl_warm_up) if config.kl_warm_up else 1.0)

    def _set_kl_weight(self, share: float) -> None:
        if "kl_weight" in self.config.options:
            self.model.kl_weight = share * self.config.options["kl_weight"]

    def _next_stage(self) -> None:
        self.progress.stage += 1
        self.progress.epoch = 0
        self.progress.held_out = []
        self.optimizer = self._make_optimizer()

    def _engine(self) -> Engine:
        """The current stage's engine."""
        # An engine reads the weight of the KL divergence once, when it is made.
        key = self.progress.stage, getattr(self.model, "kl_weight", 1.0)
        if self._engine_of != key:
            self._stage_engine = choose_together(self.group, self._new_engine)
            self._engine_of = key
        return self._stage_engine

    def _new_engine(self) -> Engine:
        self._stage_rows = features(self.dataset, self.stage.below)
        stage = self.stage
        rows, batch_size = self._stage_rows, min(self.config.batch_size, len(self.trained))
        return choose_engine(stage.module, rows, self.optimizer, stage.loss, batch_size, self.group)

    def _epoch_order(self) -> Tensor:
        """The numbers of the current epoch's rows, in their shuffled order."""
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
        # Latents that norms have a part in selecting have directions of free norm.
        is_by_norm = isinstance(module, TopKSparseAutoencoder) and (
            module.rescale_acts_by_decoder_norm
        )
        if isinstance(module, SparseDictionary) and not is_by_norm:
            module.keep_unit_norm(optimizer)
        return optimizer


@dataclass(frozen=True)
class Status:
    """What the progress bar shows: of the steps since its last update.

    Attributes:
        loss: the mean loss.
        samples_per_second: the throughput, in rows.
        metrics: the model's latest metrics beside its loss.
    """

    loss: float
    samples_per_second: float
    metrics: dict[str, float] = field(default_factory=dict)


class _Meter:
    """Averages losses and measures throughput, from update to update and from line to line."""

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress
        self.unread: list[float] = []
        self.samples = self.line_samples = progress.samples
        self.line_seconds = 0.0
        self.last_status = time.perf_counter()
        self.metrics: dict[str, float] = {}

    def status(self) -> Status:
        losses, self.unread = self.unread, []
        now = time.perf_counter()
        seconds, samples = now - self.last_status, self.progress.samples - self.samples
        self.last_status, self.samples = now, self.progress.samples
        self.progress.losses += losses
        self.progress.seconds += seconds
        self.line_seconds += seconds
        return Status(statistics.fmean(losses), samples / seconds, dict(self.metrics))

    def line(self, stage: str, rows: str) -> Line:
        """A line of metrics: of the steps since the last line. ``rows`` is the name of a row there,
        samples or tokens."""
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
    write: Callable[[Line], None],
    show: Callable[[Status], None],
    is_stopped: Callable[[], bool],
) -> None:
    """Train until the last epoch is over, or until ``is_stopped()``; then save.

    Args:
        trainer: the run.
        save: called every half a minute, and at the end.
        write: called with a line of metrics every :data:`LINE_STEPS` steps, after each stage and,
            where rows are held out, after each epoch.
        show: called a few times a second.
        is_stopped: called after each chunk of steps, a twentieth of a second or one step.

    Raises:
        DivergenceError, FloatingPointError: a loss or a parameter is not finite; the message names
            the step. What was saved last is finite.
    """
    meter = _Meter(trainer.progress)
    # In a group the ranks wait for each other after each chunk.
    seconds = CHUNK_SECONDS if trainer.group.size == 1 else STATUS_SECONDS
    saved = meter.last_status
    while not trainer.is_finished:
        meter.unread += trainer.take(LINE_STEPS - trainer.progress.step % LINE_STEPS, seconds)
        is_line = (
            trainer.progress.step % LINE_STEPS == 0
            or trainer.is_stage_over
            or bool(trainer.metrics)
        )
        now = time.perf_counter()
        is_last, is_due, is_to_be_saved = trainer.group.any(
            is_stopped(), now - meter.last_status >= STATUS_SECONDS, now - saved >= SAVE_SECONDS
        )
        if not (is_line or is_last or is_due):
            continue
        metrics = trainer.line_metrics() if is_line else {}
        meter.metrics |= metrics
        show(meter.status())
        if is_line:
            write({**meter.line(trainer.stage.label, trainer.kind.rows), **metrics})
        if is_last:
            break
        if is_to_be_saved:
            save(trainer.checkpoint())
            saved = meter.last_status = time.perf_counter()  # saving is not training time
    save(trainer.checkpoint())
    trainer.group.any(False)  # a barrier: no rank leaves before rank 0 has saved
