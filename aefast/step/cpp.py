"""The step in C++: csrc/step.cpp, csrc/fit.cpp and csrc/optimizer.cpp."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from aefast import random
from aefast.backend import extension
from aefast.ops.shared.cpp import own_precision
from aefast.step.plan import Layer, Plan

_C = extension()


def loss_and_gradients(
    plan: Plan,
    parameters: Sequence[Tensor],
    x: Tensor,
    seed: int,
    row_offset: int,
    gradients: Sequence[Tensor],
) -> float:
    """The loss of x ``[B, D]``; ``gradients``, one like each parameter or none at all, are filled."""
    return _C.step(
        kernel_plan(plan),
        x.data_ptr(),
        x.shape[0],
        x.stride(0),
        seed,
        row_offset,
        [parameter.data_ptr() for parameter in parameters],
        [gradient.data_ptr() for gradient in gradients],
        precision(),
        torch.get_num_threads(),
    )


def precision() -> Any:
    """What torch's switches ask of float32 products; full precision where ours is not the faster."""
    return own_precision(torch.float32) or _C.Precision.highest


@lru_cache(maxsize=256)
def kernel_plan(plan: Plan) -> Any:
    """The plan as C++ reads it."""
    noise = None
    if plan.noise is not None:
        is_drawn_by_uniform = plan.noise != "gaussian"
        noise = _C.StepNoise(
            kind=getattr(_C.Noise, plan.noise),
            level=plan.noise_level,
            level_threshold=random.threshold(plan.noise_level) if is_drawn_by_uniform else 0,
            low_threshold=random.threshold(plan.noise_level / 2) if is_drawn_by_uniform else 0,
        )
    is_dropout = plan.code_stage == "dropout"
    return _C.StepPlan(
        encoder=[_layer(layer) for layer in plan.encoder],
        decoder=[_layer(layer) for layer in plan.decoder],
        noise=noise,
        code_stage=getattr(_C.CodeStage, plan.code_stage),
        code_level=plan.code_level,
        code_threshold=random.threshold(plan.code_level) if is_dropout else 0,
        divergence_weight=plan.divergence_weight,
        penalty=getattr(_C.CodePenalty, plan.penalty),
        penalty_weight=plan.penalty_weight,
        penalty_target=plan.penalty_target,
        objective=getattr(_C.Objective, plan.objective),
        log_var=plan.log_var,
        sizes=list(plan.sizes),
    )


def _layer(layer: Layer) -> Any:
    return _C.StepLayer(
        inputs=layer.inputs,
        outputs=layer.outputs,
        activation=getattr(_C.Activation, layer.activation),
        weight=layer.weight,
        bias=layer.bias,
        is_tied=layer.is_tied,
    )
