"""A Boltzmann machine's contrastive divergence, as one autograd node and one C++ call."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aefast.ops.shared.product_routes import takes_matrix_units
from aefast.step import kernels, machine_eager
from aefast.step.loss_node import loss_of
from aefast.step.machine_plan import MachinePlan
from aefast.step.parameters import unsuitable, unsuitable_call, unsuitable_rows

if TYPE_CHECKING:
    from aefast import _C


def refusal(
    plan: MachinePlan, parameters: Sequence[Tensor], x: Tensor, chain: Tensor | None = None
) -> str | None:
    """Why the kernels do not serve this call; None where they do."""
    reason = unsuitable_call(x) or unsuitable_rows(x, plan.visible)
    if reason is not None:
        return reason
    if takes_matrix_units():
        return "at this precision the products of the matrix units are faster"
    held = parameters if chain is None else (*parameters, chain)
    reason = unsuitable(held, "a parameter or the chains' state")
    if reason is None and chain is not None and chain.dim() != 2:
        return "the chains are no matrix"
    return reason


class MachineCall(NamedTuple):
    """The loss of x ``[B, D]``. The chains start at x, or at ``chain`` for persistent ones; their
    last visible states are written to ``end`` if it is given. ``kernel_plan`` is the plan as C++
    reads it, with both."""

    plan: MachinePlan
    chain: Tensor | None
    end: Tensor | None
    kernel_plan: "_C.MachinePlan"
    parameters: Sequence[Tensor]
    x: Tensor
    seed: int
    row_offset: int

    @property
    def argument(self) -> str:
        return "visible"

    @property
    def is_repeatable(self) -> bool:
        """Persistent chains have moved on, maybe in the memory where they started."""
        return self.chain is None

    @property
    def inputs(self) -> list[Tensor]:
        ends = [] if self.end is None else [self.end]
        return [self.x, *ends, *self.parameters]

    def run(self, gradients: Sequence[Tensor]) -> float:
        _, _, _, plan, *arguments = self
        return kernels().step(plan, *arguments, gradients)

    def definition(self, parameters: Sequence[Tensor]) -> Tensor:
        """The loss between x and where the chains ended."""
        end = self.end
        if end is None:
            end = torch.empty_like(self.x)
            self._replace(kernel_plan=kernel_plan(self.plan, None, end)).run(())
        return machine_eager.loss_between(self.plan, parameters, self.x, end)


def machine_loss(
    plan: MachinePlan,
    parameters: Sequence[Tensor],
    x: Tensor,
    chain: Tensor | None,
    end: Tensor | None,
    seed: int,
    row_offset: int = 0,
) -> Tensor:
    """The loss of x ``[B, D]``, a scalar. Call it only if :func:`refusal` returned None.

    Args:
        chain: persistent chains ``[C, D]``, float32 and contiguous; None starts them at x.
        end: the chains' last visible states are written here. Persistent chains take it.
    """
    with_chains = kernel_plan(plan, chain, end)
    return loss_of(MachineCall(plan, chain, end, with_chains, parameters, x, seed, row_offset))


def kernel_plan(plan: MachinePlan, chain: Tensor | None, end: Tensor | None) -> "_C.MachinePlan":
    """The plan as C++ reads it."""
    from aefast.step import machine_cpp

    return machine_cpp.kernel_plan(plan, chain, end)
