"""The loss of an encoder-decoder's training step, as one autograd node and one call of the kernels,
which are C++ or numba's.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from aefast import backend
from aefast.ops.shared.product_routes import LEAST_RATIO_OF_STEP, outpaces_vendor
from aefast.step import eager, kernels
from aefast.step.loss_node import loss_of
from aefast.step.parameters import unsuitable, unsuitable_call, unsuitable_rows
from aefast.step.plan import Plan

# Where the vendor's matrix product is faster than ours, one call for the whole step is faster only
# for layers of fewer multiplications than this: there the overhead of separate calls costs more
# than the products.
MOST_PRODUCTS = 1 << 24

VENDOR_IS_FASTER = (
    "torch's matrix products of this size are faster on this processor, or it was not measured"
)


def refusal(plan: Plan, parameters: Sequence[Tensor], x: Tensor) -> str | None:
    """Why the kernels do not serve this call; None where they do."""
    return unsuitable_call(x) or unsuitable_memory(plan, parameters, x)


def unsuitable_memory(plan: Plan, parameters: Sequence[Tensor], x: Tensor) -> str | None:
    """Why the kernels do not serve these tensors in a call that they serve."""
    reason = unsuitable_rows(x, plan.encoder[0].inputs) or unsuitable(parameters)
    if reason is not None:
        return reason
    name = backend.select(x.device, x.dtype)
    if name == "numba":
        refused: str | None = kernels(name).refusal(plan, len(x))
        return refused
    return None if _outpaces_torch(plan, len(x)) else VENDOR_IS_FASTER


def _outpaces_torch(plan: Plan, rows: int) -> bool:
    if rows * plan.largest_product <= MOST_PRODUCTS:
        return True
    return outpaces_vendor(plan.largest_product, LEAST_RATIO_OF_STEP)


class EncoderDecoderCall(NamedTuple):
    """The loss of x ``[B, D]``. ``kernel`` takes what follows it, and gradients to write."""

    plan: Plan
    kernel: Callable[..., float]
    parameters: Sequence[Tensor]
    x: Tensor
    seed: int
    row_offset: int

    @property
    def argument(self) -> str:
        return "x"

    @property
    def is_repeatable(self) -> bool:
        return True

    @property
    def inputs(self) -> list[Tensor]:
        return [self.x, *self.parameters]

    def run(self, gradients: Sequence[Tensor]) -> float:
        _, kernel, *arguments = self
        return kernel(*arguments, gradients)

    def definition(self, parameters: Sequence[Tensor]) -> Tensor:
        return eager.loss(self.plan, parameters, self.x, self.seed, self.row_offset)


def step_loss(
    plan: Plan, parameters: Sequence[Tensor], x: Tensor, seed: int, row_offset: int = 0
) -> Tensor:
    """The loss of x ``[B, D]``, a scalar. Call it only if :func:`refusal` returned None."""
    kernel = kernel_of(plan, backend.select(x.device, x.dtype))
    return loss_of(EncoderDecoderCall(plan, kernel, parameters, x, seed, row_offset))


def kernel_of(plan: Plan, name: str) -> Callable[..., float]:
    """A backend's function of parameters, x, seed, row offset and gradients to write."""
    if name == "cpp":
        return partial(kernels().step, kernels().kernel_plan(plan))
    return partial(kernels(name).loss_and_gradients, plan)
