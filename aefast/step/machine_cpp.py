"""Calls the C++ kernel of a Boltzmann machine's training step: csrc/step/rbm_step.cpp."""

from functools import lru_cache

from torch import Tensor

from aefast.ops.shared.extension import _C
from aefast.step.machine_plan import MachinePlan


def kernel_plan(plan: MachinePlan, chain: Tensor | None, end: Tensor | None) -> _C.MachinePlan:
    """The plan as a C++ object, with the memory where the chains start and end."""
    without_chains = _without_chains(plan)
    if chain is None and end is None:
        return without_chains
    return without_chains.with_chains(
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
