"""A Boltzmann machine's training loss in plain PyTorch: the definition that the kernels match."""

from collections.abc import Sequence

import torch
from torch import Tensor

from aefast.ops.rbm import eager as rbm
from aefast.ops.rbm.settings import ChainSettings, Machine
from aefast.ops.sparsity import eager as sparsity
from aefast.step.machine_plan import MachinePlan


def loss(
    plan: MachinePlan,
    parameters: Sequence[Tensor],
    x: Tensor,
    chain: Tensor | None,
    seed: int,
    row_offset: int,
) -> tuple[Tensor, Tensor]:
    """The contrastive divergence of x ``[B, D]``, and the chains' last visible states.

    The chains start at x, or at ``chain`` for persistent ones.
    """
    settings = ChainSettings(plan.k, None, None, False, seed, row_offset)
    with torch.no_grad():
        start = x if chain is None else chain
        end = rbm.gibbs(start, machine_of(plan, parameters), settings).visible
    return loss_between(plan, parameters, x, end), end


def loss_between(plan: MachinePlan, parameters: Sequence[Tensor], x: Tensor, end: Tensor) -> Tensor:
    """mean F(x) - mean F(end), with F the free energy, plus the sparsity penalty of the hidden
    units' mean activity given x."""
    machine = machine_of(plan, parameters)
    difference = rbm.free_energy(x, machine).mean() - rbm.free_energy(end, machine).mean()
    if plan.sparsity_weight == 0:
        return difference
    activity = torch.sigmoid(rbm.hidden_input(x, machine))
    return difference + plan.sparsity_weight * sparsity.kl_sparsity(activity, plan.sparsity_target)


def machine_of(plan: MachinePlan, parameters: Sequence[Tensor]) -> Machine:
    weight, visible_bias, hidden_bias, *learned = parameters
    log_var = learned[0] if plan.has_log_var else None
    if plan.visible_kind == "gaussian" and log_var is None:
        log_var = torch.zeros_like(visible_bias)
    return Machine(weight, visible_bias, hidden_bias, log_var)
