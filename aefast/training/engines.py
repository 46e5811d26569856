"""Engines take training steps: C++ kernels, many steps a call, or the ordinary loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from aefast import random
from aefast.data import Dataset
from aefast.data.dataset import reading
from aefast.data.minibatches import minibatches_of
from aefast.data.pairs import Pair, PairedRows
from aefast.data.shards import ShardedDataset
from aefast.data.tensor_rows import TensorRows
from aefast.distributed import kernel_steps, loop_steps
from aefast.distributed.agreement import agree
from aefast.distributed.engine import GroupEngine, SharedSteps
from aefast.distributed.group import Group
from aefast.nn.step_plan import (
    AnyPlanned,
    PlannedDictionary,
    PlannedStep,
    check_width,
    plan_of,
)
from aefast.nn.trainable import Trainable
from aefast.ops.shared import checks
from aefast.step import optimizers
from aefast.step.loss import VENDOR_IS_FASTER
from aefast.step.minibatch_schedule import MinibatchSchedule
from aefast.training.graph_engine import graph_engine
from aefast.training.held_out import Samples

if TYPE_CHECKING:
    from aefast.step import cpp

# From rows, or a pair of inputs and targets, and a seed, which a CUDA graph reads from a tensor.
Loss = Callable[[Tensor | Pair, int | Tensor], Tensor]

HAS_LOSS = "the model has a loss of its own"
HAS_TARGETS = "the rows have targets"


class DivergenceError(ArithmeticError):
    """A loss or a parameter is not finite; the message, one line, names the step."""


class Engine(Protocol):
    """Takes steps over minibatches.

    Attributes:
        name: ``"step"``, ``"graph"``, ``"loop"`` or ``"group"``.
        reason: why this engine was chosen.
    """

    name: str

    @property
    def reason(self) -> str: ...

    def run(self, schedule: MinibatchSchedule, seconds: float) -> list[float]:
        """Take a step for each minibatch of the schedule; the losses.

        It stops early once ``seconds`` are over, and at a loss that is not finite: that loss is the
        last one returned, and its step is not taken.
        """
        ...


def choose_engine(
    model: Trainable,
    dataset: Dataset | TensorRows | PairedRows,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batch_size: int,
    group: Group | None = None,
    micro_batch_size: int | None = None,
) -> Engine:
    """The fastest engine that serves the model, the data and the optimizer.

    C++ or a CUDA graph take whole steps; what they do not serve, or on this processor are slower
    at with so many rows a step, takes the ordinary loop with ``loss``. In a group the ranks share
    each minibatch. With ``micro_batch_size`` a rank computes its rows of it in parts, one after
    the other.
    """
    group = group or Group()
    rows = rows_at_once(dataset, batch_size, group, micro_batch_size)
    if group.size > 1 or micro_batch_size is not None:
        shared = _shared_steps(model, dataset, optimizer, rows, group)
        return GroupEngine(shared, dataset, group, micro_batch_size)
    if "loss" in model.__dict__:
        step: Engine | str = HAS_LOSS
    elif any(isinstance(side, ShardedDataset) for side in _sides_of(dataset)):
        step = "the data lie in several files"
    elif _example_of(model).device.type == "cuda":
        step = (
            HAS_TARGETS
            if isinstance(dataset, PairedRows)
            else graph_engine(model, dataset, optimizer, loss)
        )
    else:
        step = _kernel_step(model, dataset, optimizer, rows)
    return LoopEngine(model, dataset, optimizer, loss, step) if isinstance(step, str) else step


def rows_at_once(
    dataset: Dataset | TensorRows | PairedRows,
    batch_size: int,
    group: Group,
    micro_batch_size: int | None,
) -> int:
    """The most rows that a rank computes at once: the same number on all ranks."""
    rows = -(-min(batch_size, len(dataset)) // group.size)
    return rows if micro_batch_size is None else min(rows, micro_batch_size)


def choose_together(group: Group, choose: Callable[[], Engine]) -> Engine:
    """The engine that :func:`choose_engine` gives each rank, which all call together.

    Raises:
        DisagreementError: the ranks' engines or trained parameters differ, and so would what they
            send each other: gloo ends a process that receives other sizes.
        OtherRankError: another rank has an error.
    """
    engine = group.together(choose)
    if isinstance(engine, GroupEngine):
        trained = [parameter.requires_grad for parameter in engine.steps.model.parameters()]
        # The ranks may have different processors: what is slower on one, none of them takes.
        (is_slower,) = group.any(engine.steps.reason == VENDOR_IS_FASTER)
        if is_slower:
            model, optimizer = engine.steps.model, engine.steps.optimizer
            engine.steps = loop_steps.LoopSteps(model, optimizer, group, VENDOR_IS_FASTER)
        steps = engine.steps.name
        agree(group, {"what takes a step": steps, "which parameters train": trained})
    return engine


def choice_key(
    model: Trainable,
    dataset: Dataset | TensorRows | PairedRows,
    optimizer: torch.optim.Optimizer,
    rows: int,
) -> list[object]:
    """Everything that :func:`choose_engine` depends on: another key may mean another engine.

    A callback changes it where it puts a hook on a layer, anneals a weight of the loss, replaces a
    parameter, or lets one train that did not.
    """
    planned = plan_of(model)
    # Which parameters there are and train: those that the ranks of a group sum gradients of.
    trained = [(id(parameter), parameter.requires_grad) for parameter in model.parameters()]
    if isinstance(planned, str):
        return [planned, trained]
    states = (getattr(planned, name, None) for name in ("chain", "idle", "threshold"))
    tensors = [*planned.parameters, *states]
    return [
        planned.plan,
        trained,
        "loss" in model.__dict__,
        [*map(id, tensors)],
        _refusal(planned, dataset, optimizer, rows),
    ]


def _sides_of(dataset: Dataset | TensorRows | PairedRows) -> tuple[Dataset | TensorRows, ...]:
    """The rows; of pairs the inputs, then the targets."""
    return (dataset.inputs, dataset.targets) if isinstance(dataset, PairedRows) else (dataset,)


def _example_of(model: Trainable) -> Tensor:
    """A parameter, for its device and dtype."""
    return next(model.parameters(), torch.empty(0, dtype=torch.float32, device="cpu"))


def _shared_steps(
    model: Trainable,
    dataset: Dataset | TensorRows | PairedRows,
    optimizer: torch.optim.Optimizer,
    rows: int,
    group: Group,
) -> SharedSteps:
    if isinstance(dataset, PairedRows):
        return loop_steps.LoopSteps(model, optimizer, group, HAS_TARGETS)
    planned = HAS_LOSS if "loss" in model.__dict__ else _planned(model, dataset, optimizer, rows)
    reason = planned if isinstance(planned, str) else kernel_steps.refusal(planned)
    if isinstance(planned, PlannedStep) and reason is None:
        return kernel_steps.KernelSteps(model, planned, optimizer, group)
    return loop_steps.LoopSteps(model, optimizer, group, str(reason))


def _planned(
    model: Trainable,
    dataset: Dataset | TensorRows | PairedRows,
    optimizer: torch.optim.Optimizer,
    rows: int,
) -> AnyPlanned | str:
    """The step that the kernels take with this optimizer; or why they do not."""
    planned = plan_of(model)
    if isinstance(planned, str):
        return planned
    return _refusal(planned, dataset, optimizer, rows) or planned


def _refusal(
    planned: AnyPlanned,
    dataset: Dataset | TensorRows | PairedRows,
    optimizer: torch.optim.Optimizer,
    rows: int,
) -> str | None:
    """Why the kernels do not take a planned step of so many rows with this optimizer; None where
    they do."""
    inputs, *targets = _sides_of(dataset)
    if targets and not isinstance(planned, PlannedDictionary):
        return HAS_TARGETS
    check_width(inputs.rows.shape[1], planned)
    if isinstance(planned, PlannedDictionary):
        widths = [side.rows.shape[1] for side in targets]
        if widths != [planned.plan.outputs] and (widths or planned.plan.is_transcoder):
            return "the rows have no targets of the model's width"
    row = torch.empty(1, planned.width, dtype=torch.float32, device="cpu")
    for parameter in planned.parameters:
        if parameter.device.type != "cpu":
            return f"the parameters are on {parameter.device}"
        if parameter.is_inference():
            return "the parameters were made in inference mode"
    return planned.refusal(row.expand(rows, -1)) or optimizers.refusal(
        optimizer, planned.parameters
    )


def _kernel_step(
    model: Trainable,
    dataset: Dataset | TensorRows | PairedRows,
    optimizer: torch.optim.Optimizer,
    rows: int,
) -> "StepEngine | str":
    planned = _planned(model, dataset, optimizer, rows)
    if isinstance(planned, str):
        return planned
    from aefast.step import cpp

    sides: list[_Side] = []
    for side in _sides_of(dataset):
        if isinstance(side, TensorRows):
            return "the data are no float32 on a CPU"
        kernel_rows = cpp.rows_of(side.rows, side.scale)
        if isinstance(kernel_rows, str):
            return kernel_rows
        if planned.unit_interval_reason is not None:
            _check_unit_interval(side, "data", planned.unit_interval_reason)
        sides.append(_Side(side, kernel_rows))
    return StepEngine(model, planned, sides, optimizer)


class _Side(NamedTuple):
    """A dataset, and its rows as the kernels gather them."""

    dataset: Dataset
    rows: "cpp.Rows"


def check_held_out(model: Trainable, dataset: Samples | None, held_out: Samples) -> None:
    """Check held-out rows before any step is taken: their loss is computed after an epoch.

    Raises:
        TypeError, ValueError: they have not the width of the data or the model, a target each where
            the data have none, or numbers outside [0, 1] that the model does not take.
    """
    sides = _sides_of(held_out)
    if dataset is not None:
        if isinstance(dataset, PairedRows) != isinstance(held_out, PairedRows):
            raise TypeError("of data and validation one is a pair; it takes two of them, or none")
        for side, trained in zip(sides, _sides_of(dataset), strict=True):
            width, expected = side.rows.shape[1], trained.rows.shape[1]
            if width != expected:
                raise ValueError(f"validation has rows of {width} numbers; data has {expected}")
    planned = plan_of(model)
    if isinstance(planned, str):
        return
    check_width(sides[0].rows.shape[1], planned, "validation")
    if planned.unit_interval_reason is not None and isinstance(sides[0], Dataset):
        _check_unit_interval(sides[0], "validation", planned.unit_interval_reason)


def _check_unit_interval(dataset: Dataset, argument: str, reason: str) -> None:
    """Check the data's bounds once, in place of the check in each loss.

    Raises:
        ValueError: a number is outside [0, 1].
    """
    low, high = dataset.low, dataset.high
    if not math.isfinite(low - high):
        low, high = float(dataset.rows.min()), float(dataset.rows.max())
    checks.check_bounds(low, high, argument, reason)


class StepEngine:
    """C++ takes a chunk of steps a call: gathers rows, takes each step, updates the parameters."""

    name = "step"
    reason = "the kernels take the whole step"

    def __init__(
        self,
        model: Trainable,
        planned: AnyPlanned,
        sides: "Sequence[_Side]",
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.model = model
        self.planned = planned
        self.sides = sides
        self.steps = planned.updates(optimizer)

    def run(self, schedule: MinibatchSchedule, seconds: float) -> list[float]:
        from aefast.step import cpp

        with ExitStack() as files:
            for dataset, _ in self.sides:
                files.enter_context(reading(dataset.rows, dataset.name))
            losses = cpp.fit(
                self.planned.kernel_plan(),
                self.planned.parameters,
                self.steps,
                schedule,
                seconds,
                *(rows for _, rows in self.sides),
            )
        if not losses and isinstance(self.planned, PlannedStep):
            raise ValueError(self.planned.one_row_error)
        self.planned.advance(sum(map(math.isfinite, losses)))
        return losses


def release_memory(engine: object) -> None:
    """Give back what C++ keeps between an engine's calls: as much as the gradients and the rows of
    a minibatch take, and more."""
    if isinstance(engine, StepEngine):
        from aefast.step import cpp

        cpp.release_memory()


class TrainingLoop:
    """The ordinary training step: the loss, backward, and the optimizer's step."""

    name = "loop"

    def __init__(
        self, model: Trainable, optimizer: torch.optim.Optimizer, loss: Loss, reason: str
    ) -> None:
        example = _example_of(model)
        self.device, self.dtype = example.device, example.dtype
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.reason = reason

    def step(self, x: Tensor | Pair, seed: int) -> float | Tensor:
        """Take one step; its loss. On a CPU it is a float, and if it is not finite the step is not
        taken."""
        self.optimizer.zero_grad()
        loss = self.loss(x, seed)
        value = loss.item() if loss.device.type == "cpu" else loss.detach()
        if isinstance(value, float) and not math.isfinite(value):
            return value
        loss.backward()
        self.optimizer.step()
        return value


class LoopEngine(TrainingLoop):
    """The ordinary loop over a dataset's minibatches.

    On a GPU no step waits for its loss, so that a loss that is not finite is noticed steps later.
    """

    def __init__(
        self,
        model: Trainable,
        dataset: Dataset | TensorRows | PairedRows,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        reason: str,
    ) -> None:
        super().__init__(model, optimizer, loss, reason)
        self.dataset = dataset

    def run(self, schedule: MinibatchSchedule, seconds: float) -> list[float]:
        end = time.perf_counter() + seconds
        losses: list[float | Tensor] = []
        first_step = schedule.first_step
        for rows, seed in zip(schedule.epochs(), schedule.seeds, strict=False):
            for x in self._minibatches(rows):
                losses.append(self.step(x, random.child_seed(seed, first_step)))
                first_step += 1
                is_finite = not isinstance(losses[-1], float) or math.isfinite(losses[-1])
                if not is_finite or time.perf_counter() >= end:
                    return [float(loss) for loss in losses]
            first_step = 0
        return [float(loss) for loss in losses]

    def _minibatches(self, chosen: Sequence[Tensor]) -> Iterator[Tensor | Pair]:
        return minibatches_of(self.dataset, chosen, self.device, self.dtype)


def check_finite(losses: list[float], steps_before: int) -> None:
    """
    Raises:
        DivergenceError: a loss is not finite. The first of ``losses`` is of step
            ``steps_before + 1``.
    """
    for number, loss in enumerate(losses, start=steps_before + 1):
        if not math.isfinite(loss):
            raise DivergenceError(f"the loss of step {number} is {loss}")
