"""Calls the C++ kernel of a Boltzmann machine's training step: csrc/step/rbm_step.cpp."""

from collections.abc import Sequence
from functools import lru_cache

from torch import Tensor

from aefast.ops.shared.extension import _C
from aefast.step import cpp
from aefast.step.machine_plan import MachinePlan


def loss_and_gradients(
    plan: MachinePlan,
    parameters: Sequence[Tensor],
    x: Tensor,
    chain: Tensor | None,
    end: Tensor,
    seed: int,
    row_offset: int,
    gradients: Sequence[Tensor],
) -> float:
    """The loss of x ``[B, D]``.

    Writes the gradients by the parameters into ``gradients``, tensors of their shapes; an empty
    sequence asks for none. Writes the chains' last visible states into ``end``, which may be
    ``chain`` itself.
    """
    return cpp.step(kernel_plan(plan, chain, end), parameters, x, seed, row_offset, gradients)


def kernel_plan(plan: MachinePlan, chain: Tensor | None, end: Tensor | None) -> _C.MachinePlan:
    """The plan as a C++ object, with the memory where the chains start and end."""
    return _without_chains(plan).with_chains(
        0 if chain is None else chain.data_ptr(),
        0 if end is None else end.data_ptr(),
        0 if chain is None else chain.shape[0],
    )


@lru_cache(maxsize=256)
def _without_chains(plan: MachinePlan) -> _C.MachinePlan:
    return _C.MachinePlan(
        visible=plan.visible,
        hidden=plan.hidden,
        is_gaussian=plan.visible_kind == "gaussian",
        has_log_var=plan.has_log_var,
        k=plan.k,
        sparsity_weight=plan.sparsity_weight,
        sparsity_target=plan.sparsity_target,
    )
