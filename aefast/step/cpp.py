"""Calls the C++ kernels of training steps: csrc/step/step.cpp, fit.cpp and optimizer.cpp."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aefast import backend, random
from aefast.ops.shared.cpp import as_matrix
from aefast.ops.shared.extension import _C
from aefast.ops.shared.precision import product_level
from aefast.random import DrawStep
from aefast.step.minibatch_schedule import MinibatchSchedule
from aefast.step.plan import CODE_STEPS, NOISE_STEPS, Plan, PlannedLayer, PlannedNorm
from aefast.step.statistics import Updates


def step(
    kernel_plan: _C.StepPlan | _C.MachinePlan,
    parameters: Sequence[Tensor],
    x: Tensor,
    seed: int,
    row_offset: int,
    gradients: Sequence[Tensor],
) -> float:
    """The loss of x ``[B, D]``, of an encoder-decoder or a Boltzmann machine. Writes the gradients
    by the parameters into ``gradients``, tensors of their shapes; an empty sequence asks for none.
    """
    if not backend.reads_tensors():
        return _C.step(
            kernel_plan,
            as_matrix(x),
            seed,
            row_offset,
            [parameter.data_ptr() for parameter in parameters],
            [gradient.data_ptr() for gradient in gradients],
            precision(),
            torch.get_num_threads(),
        )
    return _C.step_on_tensors(
        kernel_plan,
        x,
        seed,
        row_offset,
        parameters,
        gradients,
        precision(),
        torch.get_num_threads(),
    )


def normalize_rows(rows: Tensor) -> None:
    """Divide each of the rows ``[L, D]`` by its norm, in place."""
    _C.normalize_rows(as_matrix(rows), torch.get_num_threads())
    torch.autograd.graph.increment_version([rows])


def project_rows(gradient: Tensor, rows: Tensor) -> None:
    """Take from the rows' gradient what would change their norms, in place."""
    _C.project_rows(as_matrix(gradient), as_matrix(rows), torch.get_num_threads())
    torch.autograd.graph.increment_version([gradient])


def update(updates: Sequence[_C.ParameterUpdate], gradients: Sequence[int]) -> None:
    """One step of an optimizer. ``gradients`` are memory addresses. The optimizer's own count of
    steps is increased as well."""
    _C.update(updates, gradients, torch.get_num_threads())


def release_memory() -> None:
    """Give back the memory that this thread's steps work in, which is kept from step to step."""
    _C.release_step_memory()


def precision() -> _C.Precision:
    """The precision of float32 matrix products, from torch's settings."""
    level: _C.Precision = getattr(_C.Precision, product_level("cpu"))
    return level


@lru_cache(maxsize=256)
def kernel_plan(plan: Plan) -> _C.StepPlan:
    """The plan as a C++ object."""
    noise = None
    if plan.noise is not None:
        is_drawn_by_uniform = plan.noise != "gaussian"
        noise = _C.StepNoise(
            kind=getattr(_C.Noise, plan.noise),
            step=NOISE_STEPS[plan.noise],
            level=plan.noise_level,
            level_threshold=random.threshold(plan.noise_level) if is_drawn_by_uniform else 0,
            low_threshold=random.threshold(plan.noise_level / 2) if is_drawn_by_uniform else 0,
        )
    is_dropout = plan.code_stage == "dropout"
    return _C.StepPlan(
        encoder=[kernel_layer(layer) for layer in plan.encoder],
        decoder=[kernel_layer(layer) for layer in plan.decoder],
        noise=noise,
        code_stage=getattr(_C.CodeStage, plan.code_stage),
        code_level=plan.code_level,
        code_step=CODE_STEPS[plan.code_stage].value,
        code_threshold=random.threshold(plan.code_level) if is_dropout else 0,
        divergence_weight=plan.divergence_weight,
        divergence_limit=plan.divergence_limit,
        lowest_log_var=plan.log_var_bounds[0],
        highest_log_var=plan.log_var_bounds[1],
        penalty=getattr(_C.CodePenalty, plan.penalty),
        penalty_weight=plan.penalty_weight,
        penalty_target=plan.penalty_target,
        objective=getattr(_C.Objective, plan.objective),
        log_var=plan.log_var,
        sizes=list(plan.sizes),
    )


def kernel_layer(layer: PlannedLayer) -> _C.StepLayer:
    return _C.StepLayer(
        inputs=layer.inputs,
        outputs=layer.outputs,
        activation=getattr(_C.Activation, layer.activation),
        weight=layer.weight,
        bias=layer.bias,
        is_tied=layer.is_tied,
        log_var_weight=layer.log_var_weight,
        log_var_bias=layer.log_var_bias,
        norm=None if layer.norm is None else _kernel_norm(layer.norm),
        dropout=_kernel_dropout(layer.dropout) if layer.dropout else None,
    )


def _kernel_norm(norm: PlannedNorm) -> _C.StepNorm:
    return _C.StepNorm(
        follows_activation=norm.follows_activation,
        scale=norm.scale,
        shift=norm.shift,
        mean=norm.mean,
        variance=norm.variance,
        epsilon=norm.epsilon,
    )


def _kernel_dropout(level: float) -> _C.StepDropout:
    return _C.StepDropout(
        level=level, threshold=random.threshold(level), step=DrawStep.DROPOUT.value
    )


class Rows(NamedTuple):
    """A dataset from which the kernels gather the rows of minibatches.

    Attributes:
        memory: the array ``[N, D]``. The reference keeps its memory alive.
        data: its address, type and strides, for C++.
    """

    memory: np.ndarray
    data: _C.DataRows


def rows_of(memory: np.ndarray, scale: float) -> Rows | str:
    """A description for C++ of rows ``[N, D]``; or the reason why the kernels cannot read them.

    They read float32 and uint8 whose columns are adjacent in memory.
    """
    if memory.dtype not in (np.float32, np.uint8):
        return f"the data are {memory.dtype}; the kernels gather float32 and uint8"
    if not memory.flags.aligned or memory.strides[0] % memory.itemsize:
        return "a row does not begin at a multiple of a number's size"
    row_stride, column_stride = (stride // memory.itemsize for stride in memory.strides)
    if column_stride != 1 and memory.shape[1] > 1:
        return "a row's numbers are not adjacent in memory"
    data = _C.DataRows(
        rows=memory.ctypes.data,
        are_bytes=memory.dtype == np.uint8,
        scale=scale,
        columns=memory.shape[1],
        row_stride=row_stride,
    )
    return Rows(memory, data)


def fit(
    plan: _C.StepPlan | _C.MachinePlan | _C.DictionaryPlan,
    parameters: Sequence[Tensor],
    optimizer: Updates,
    schedule: MinibatchSchedule,
    seconds: float,
    rows: Rows,
    targets: Rows | None = None,
) -> list[float]:
    """Take a step for each minibatch of the schedule, or stop after ``seconds``.

    ``plan`` is from :func:`kernel_plan` here, in :mod:`aefast.step.machine_cpp`, or in
    :mod:`aefast.step.dictionary_cpp`. Only a dictionary has targets, a row for each of ``rows``.

    Returns:
        the loss of each step. If the last loss is not finite, its step was not taken.
    """
    epochs = -(-len(schedule.order) // schedule.epoch_rows)
    losses = torch.empty(epochs * schedule.steps_per_epoch, dtype=torch.float64, device="cpu")
    steps = 0
    try:
        steps, is_finite = _C.fit(
            plan=plan,
            data=rows.data,
            targets=None if targets is None else targets.data,
            order=schedule.order.data_ptr(),
            count=len(schedule.order),
            epoch_rows=schedule.epoch_rows,
            batch_size=min(schedule.batch_size, schedule.epoch_rows),  # C++ allocates so many rows
            is_even=schedule.is_even,
            seeds=schedule.seeds,
            first_step=schedule.first_step,
            parameters=[parameter.data_ptr() for parameter in parameters],
            updates=optimizer.updates(),
            updated=optimizer.numbers,
            losses=losses.data_ptr(),
            seconds=seconds,
            precision=precision(),
            threads=torch.get_num_threads(),
        )
    finally:  # also where Ctrl-C ended the first step
        optimizer.advance(steps)
    return losses[: steps if is_finite else steps + 1].tolist()
