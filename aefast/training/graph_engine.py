"""Training on a GPU: a whole step is captured as a CUDA graph and replayed for each minibatch."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice, takewhile
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from aefast.data import Dataset
from aefast.data.dataset import reading
from aefast.data.tensor_rows import TensorRows
from aefast.nn.dictionary_adam import DictionaryAdam
from aefast.nn.step_plan import PlannedDictionary, PlannedStep, check_width, plan_of
from aefast.nn.trainable import Trainable
from aefast.step import optimizers
from aefast.step.minibatch_schedule import MinibatchSchedule

# Row numbers go to the GPU for so many rows at a time, or for one minibatch if that has more.
BUFFER_ROWS = 1 << 18


class DeviceRows:
    """A dataset's rows in a GPU's memory, from which minibatches are gathered.

    Args:
        dataset: its rows are copied in their own dtype, uint8 as uint8.
        example: a parameter, for its device and dtype.
    """

    def __init__(self, dataset: Dataset | TensorRows, example: Tensor) -> None:
        if isinstance(dataset, TensorRows):
            self.rows = dataset.rows.to(example.device)
        else:
            with reading(dataset.rows, dataset.name):
                rows = np.require(dataset.rows[:], native(dataset.rows.dtype), ["C", "W"])
                self.rows = torch.from_numpy(rows).to(example.device)
        self.dtype = example.dtype
        scale = 1.0 if isinstance(dataset, TensorRows) else dataset.scale
        # A tensor: CUDA divides by it. By a number it multiplies with the reciprocal, which rounds
        # differently.
        self.scale = None if scale == 1 else example.new_full((), scale, dtype=torch.float32)

    def take(self, indices: Tensor) -> Tensor:
        """The rows of ``indices``, int64 ``[B]``: ``[B, D]``."""
        rows = self.rows.index_select(0, indices)
        if not rows.is_floating_point():
            rows = rows.float()
        return (rows if self.scale is None else rows / self.scale).to(self.dtype)


def native(dtype: np.dtype) -> np.dtype:
    """The dtype in the machine's byte order; torch takes no other."""
    return dtype.newbyteorder("=")


class Capture(Protocol):
    """Captures a step, to be replayed."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Take a step on the stream of the capture, so that kernels are compiled before it."""
        ...

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without computing it; a function that replays it."""
        ...


class CudaCapture:
    """CUDA graphs, captured on a stream of their own, as CUDA requires."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, step: Callable[[], None]) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            step()
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            step()
        replay: Callable[[], None] = graph.replay
        return replay


class DeviceOptimizer:
    """An optimizer whose changing numbers are tensors on the device, as a CUDA graph requires.

    These are the counts of steps, the learning rates and the flag ``stopped``. The steps are taken
    by torch's fused optimizer of the same kind, which shares the averages of ``optimizer``.

    Args:
        optimizer: one that :func:`aefast.step.optimizers.refusal` does not refuse.
        stopped: float32, a scalar: 1 after a loss that was not finite, when no step is taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, stopped: Tensor) -> None:
        self.optimizer = optimizer
        groups = [self._on_device(group, stopped.device) for group in optimizer.param_groups]
        make: Any = type(optimizer)
        self.fused = make(groups)
        self.fused.found_inf = stopped
        for parameter, state in optimizer.state.items():
            self.fused.state[parameter] = {
                name: value.to(stopped.device, copy=True) if name == "step" else value
                for name, value in state.items()
            }

    @staticmethod
    def _on_device(group: dict[str, Any], device: torch.device) -> dict[str, Any]:
        rate = torch.full((), float(group["lr"]), dtype=torch.float32, device=device)
        options = {**group, "lr": rate, "fused": True, "foreach": False}
        return {**options, "capturable": True} if "capturable" in group else options

    def read_rates(self) -> None:
        """Copy the learning rates to the device; a scheduler may have changed them."""
        for fused, group in zip(self.fused.param_groups, self.optimizer.param_groups, strict=True):
            fused["lr"].fill_(float(group["lr"]))

    def step(self, gradients: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take one step with pairs of a parameter and its gradient."""
        for parameter, gradient in gradients:
            parameter.grad = gradient
        self.fused.step()
        for parameter, _ in gradients:
            parameter.grad = None

    def write_back(self) -> None:
        """Copy the state into ``optimizer``, as if it had taken the steps itself."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                for name, value in self.fused.state.get(parameter, {}).items():
                    state = self.optimizer.state[parameter]
                    if name != "step":
                        state[name] = value
                    elif name in state:
                        state[name].copy_(value)
                    else:
                        state[name] = value.to(count_device(group, value), copy=True)


def count_device(group: dict[str, Any], count: Tensor) -> torch.device:
    """The device of the optimizer's count of steps: the CPU, unless the optimizer is fused."""
    return count.device if group.get("fused") else torch.device("cpu")


class Buffers(NamedTuple):
    """The tensors that a captured step reads and writes, at fixed addresses.

    Attributes:
        order: the row numbers of the next minibatches, int64.
        seeds: a seed a step, int64.
        losses: a loss a step, float32.
        rows_taken: the rows of ``order`` so far, int64 ``[1]``.
        steps_taken: the steps so far, int64 ``[1]``.
    """

    order: Tensor
    seeds: Tensor
    losses: Tensor
    rows_taken: Tensor
    steps_taken: Tensor

    @classmethod
    def for_batches(cls, batch_size: int, device: torch.device) -> "Buffers":
        rows = max(batch_size, BUFFER_ROWS)

        def zeros(size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        steps = rows // batch_size
        return cls(
            zeros(rows, torch.int64),
            zeros(steps, torch.int64),
            zeros(steps, torch.float32),
            zeros(1, torch.int64),
            zeros(1, torch.int64),
        )

    def fill(self, order: Tensor, seeds: Tensor) -> None:
        """Copy the next steps' row numbers and seeds to the GPU, and set the counts to 0."""
        self.order[: len(order)].copy_(order)
        self.seeds[: len(seeds)].copy_(seeds)
        self.rows_taken.zero_()
        self.steps_taken.zero_()


class GraphEngine:
    """Takes each step by one launch of a CUDA graph.

    There is a graph for each size of minibatch: two, where an epoch's last one is smaller. The
    first step of each size is taken without a graph, which compiles its kernels.

    Args:
        model: a model with a plan of its step, so that the step does not depend on Python.
        rows: the training rows.
        optimizer: of the model's parameters.
        loss: from a batch ``[B, D]`` and a seed, int64 ``[1]``, to a scalar.
        capture: how a step is captured.
    """

    name = "graph"
    reason = "a CUDA graph holds the whole step"

    def __init__(
        self,
        model: Trainable,
        rows: DeviceRows,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor], Tensor],
        capture: Capture,
    ) -> None:
        self.model = model
        self.rows = rows
        self.own_optimizer = optimizer
        self.loss = loss
        self.capture = capture
        self.stopped = torch.zeros((), dtype=torch.float32, device=rows.rows.device)
        self.buffers: Buffers | None = None
        self.step_seconds = math.inf
        self._begin()

    def _begin(self) -> None:
        """Read the model and the optimizer, and drop all graphs: a graph reads and writes the
        addresses that it was captured with."""
        self.states = list(self.model.buffers())  # an RBM's persistent chains, which a step changes
        self.optimizer = DeviceOptimizer(self.own_optimizer, self.stopped)
        parameter_ids = {id(parameter) for parameter in self.model.parameters()}
        self.trained = [
            parameter
            for group in self.own_optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in parameter_ids and parameter.requires_grad
        ]
        self.takes: dict[int, Callable[[], None]] = {}
        self.captured_facts = facts(self.model, self.own_optimizer)

    def run(self, schedule: MinibatchSchedule, seconds: float) -> list[float]:
        if self.buffers is None:
            largest = min(schedule.batch_size, schedule.epoch_rows)
            self.buffers = Buffers.for_batches(largest, self.stopped.device)
        if facts(self.model, self.own_optimizer) != self.captured_facts:
            self._begin()
        start = time.perf_counter()
        most = max(1, min(len(self.buffers.seeds), int(seconds / self.step_seconds)))
        minibatches = list(islice(chain.from_iterable(schedule.epochs()), most))
        self.buffers.fill(torch.cat(minibatches), schedule.step_seeds(len(minibatches)))
        self.stopped.zero_()
        self.optimizer.read_rates()
        for minibatch in minibatches:
            self._take(len(minibatch))
        losses: list[float] = self.buffers.losses[: len(minibatches)].tolist()
        finite = sum(1 for _ in takewhile(math.isfinite, losses))
        if finite == 0:
            self._begin()  # no step was taken: drop the optimizer state that it created
        else:
            self.optimizer.write_back()
            self.captured_facts = facts(self.model, self.own_optimizer)
        self.step_seconds = (time.perf_counter() - start) / len(minibatches)
        return losses[: finite + 1]

    def _take(self, rows: int) -> None:
        """A step over a minibatch of so many rows: the first without a graph, the others by it."""
        if rows not in self.takes:
            self.capture.warm_up(lambda: self._step(rows))
            self.takes[rows] = lambda: self._capture(rows)
        else:
            self.takes[rows]()

    def _capture(self, rows: int) -> None:
        try:
            self.takes[rows] = self.capture.capture(lambda: self._step(rows))
        except RuntimeError as error:  # without a graph the step has the same numbers
            self.takes[rows] = lambda: self._step(rows)
            self.name = "loop"
            self.reason = f"the step could not be captured: {str(error).splitlines()[0]}"
        self.takes[rows]()

    def _step(self, rows: int) -> None:
        """The step that is captured: what changes between steps is read from the GPU's memory."""
        buffers = self.buffers
        assert buffers is not None  # run() has made them
        states = [state.clone() for state in self.states]
        positions = buffers.rows_taken + torch.arange(
            rows, dtype=torch.int64, device=self.stopped.device
        )
        x = self.rows.take(buffers.order.index_select(0, positions))
        loss = self.loss(x, buffers.seeds.index_select(0, buffers.steps_taken))
        gradients = torch.autograd.grad(loss, self.trained, allow_unused=True)
        with torch.no_grad():
            self.stopped.copy_(torch.maximum(self.stopped, 1 - loss.isfinite().float()))
            pairs = zip(self.trained, gradients, strict=True)
            self.optimizer.step([(p, gradient) for p, gradient in pairs if gradient is not None])
            for state, before in zip(self.states, states, strict=True):
                state.copy_(torch.where(self.stopped > 0, before, state))
            buffers.losses.index_copy_(0, buffers.steps_taken, loss.float().reshape(1))
            buffers.rows_taken.add_(rows)
            buffers.steps_taken.add_(1)


def facts(model: Trainable, optimizer: torch.optim.Optimizer) -> list[object]:
    """What a graph has fixed: the model's plan, the tensors' addresses, which are trained, and the
    optimizer's options but for its learning rates. A callback or a state dict may change them."""
    planned = plan_of(model)
    groups = optimizer.param_groups
    held = [parameter for group in groups for parameter in group["params"]]
    tensors = [*model.parameters(), *model.buffers(), *held]
    for parameter in held:
        state = optimizer.state.get(parameter, {})
        tensors += [value for name, value in state.items() if name != "step" and value is not None]
    return [
        planned if isinstance(planned, str) else planned.plan,
        [{key: group[key] for key in group if key not in ("params", "lr")} for group in groups],
        [(id(tensor), tensor.data_ptr(), tensor.requires_grad) for tensor in tensors],
    ]


def graph_engine(
    model: Trainable,
    dataset: Dataset | TensorRows,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> GraphEngine | str:
    """The engine for a model on a CUDA device; or why its step cannot be captured."""
    planned = plan_of(model)
    if isinstance(planned, PlannedDictionary):
        return "on a GPU a dictionary's step is its kernels' alone"
    if isinstance(planned, str):
        return planned
    if type(optimizer) is DictionaryAdam:
        return "the optimizer is DictionaryAdam, of which a graph has no form"
    check_width(dataset.rows.shape[1], planned)
    if isinstance(planned, PlannedStep) and planned.has_norm_or_dropout:
        return "batch normalization and dropout between layers are torch's on a GPU"
    reason = optimizers.refusal(optimizer, planned.parameters)
    if reason is not None:
        return reason
    example = planned.parameters[0]
    if any(p.device != example.device or p.is_inference() for p in planned.parameters):
        return "the parameters are not all on one device, or were made in inference mode"
    free, _ = torch.cuda.mem_get_info(example.device)
    if dataset.rows.nbytes > free // 4:
        return "the data take more than a quarter of the GPU's free memory"
    rows = DeviceRows(dataset, example)
    return GraphEngine(model, rows, optimizer, loss, CudaCapture(example.device))
