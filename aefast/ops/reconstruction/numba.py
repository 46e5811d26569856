"""The reconstruction loss in numba, around the vendor's matrix products."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from aefast import backend
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.corrupt.noise import Noise
from aefast.ops.linear_act.op import saved_for_backward
from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction.settings import Gradients, LossInputs, LossSettings, PerInput
from aefast.ops.shared import numba as shared

# Elements whose losses are added up apart from the others', whatever the number of threads. Fewer
# are compared before a second thread has woken.
ELEMENTS_PER_TASK = 1 << 18
# As cpp.py's around the vendor's product.
PANEL_BYTES = 16 << 20


def reconstruction_loss(
    inputs: LossInputs, settings: LossSettings, scale: float, needs_grad: PerInput[bool]
) -> tuple[float | Tensor, Gradients]:
    detached = LossInputs._make(None if tensor is None else tensor.detach() for tensor in inputs)
    return panels.reconstruction_loss(_Primitives(), detached, settings, scale, needs_grad)


def pays(inputs: LossInputs) -> bool:
    """Whether panels pay. With the vendor's product they save memory alone, and only if they are
    several."""
    return len(panels.panels_of(inputs.x, inputs.encoder_weight.shape[0], PANEL_BYTES)) > 1


class _Primitives:
    """Implements panels.LossPrimitives."""

    panel_bytes = PANEL_BYTES

    def __init__(self) -> None:
        self.layer = backend.implementation("linear_act", "numba")
        self.corruption = backend.implementation("corrupt", "numba")

    def operand(self, right: Tensor) -> Tensor:
        return right

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        return self.corruption.corrupt(x, noise)

    def encode(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        code, preactivation = self.layer.forward(x, weight, bias, activation, True)
        return code, saved_for_backward(activation, code, preactivation)

    def compare(
        self,
        code: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        settings: LossSettings,
        scale: float,
        needs_grad: panels.ComparisonGradients,
    ) -> panels.Compared:
        activation = "identity" if settings.reconstruction == "bce" else settings.output_activation
        output, preactivation = self.layer.forward(code, weight, bias, activation, True)
        saved = saved_for_backward(activation, output, preactivation)
        loss, grad = compare(settings.reconstruction, output, target, scale)
        grad_target = None
        if needs_grad.target:
            grad_target = -grad if settings.reconstruction == "mse" else -scale * output
        if saved is not None and (needs_grad.output or needs_grad.bias):
            grad = shared.map_elements(shared.activation_backward(activation), grad, saved)
        return panels.Compared(loss, grad, grad.sum(0) if needs_grad.bias else None, grad_target)

    def encode_backward(
        self,
        grad_output: Tensor,
        weight: Tensor,
        saved: Tensor | None,
        activation: str,
        bias_needed: bool,
    ) -> tuple[Tensor, Tensor | None]:
        grad = torch.mm(grad_output, weight.t())
        if saved is not None:
            grad = shared.map_elements(shared.activation_backward(activation), grad, saved)
        return grad, grad.sum(0) if bias_needed else None

    def contraction(self) -> PenaltyPrimitives:
        return backend.implementation("contractive", "numba").primitives()

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.mm(left, right.t())

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        return torch.mm(left.t(), right) if total is None else total.addmm_(left.t(), right)


def compare(
    reconstruction: str, output: Tensor, target: Tensor, scale: float
) -> tuple[float, Tensor]:
    """The summed loss of an output ``[B, D]``, for ``"bce"`` of its logits, and ``scale`` times its
    gradient."""
    output, target = output.contiguous(), target.contiguous()
    grad = torch.empty_like(output)
    rows, columns = output.shape
    at = output.data_ptr(), target.data_ptr(), grad.data_ptr()
    kernel = _cross_entropy if reconstruction == "bce" else _squared_error
    rows_of_task = max(1, ELEMENTS_PER_TASK // columns)
    if rows <= rows_of_task:
        return kernel(*at, rows, columns, scale), grad
    losses = [0.0] * -(-rows // rows_of_task)

    def task(index: int) -> None:
        first = index * rows_of_task
        offset = first * columns * output.itemsize
        part = *(address + offset for address in at), min(rows_of_task, rows - first)
        losses[index] = kernel(*part, columns, scale)

    shared.parallel_for(len(losses), task)
    return sum(losses), grad


# A sum in the order of its elements would keep the compiler from vectorizing.
_vectorized = njit(
    nogil=True, cache=shared.CACHE, error_model="numpy", fastmath={"reassoc", "contract"}
)


@_vectorized
def _squared_error(
    output_at: int, target_at: int, grad_at: int, rows: int, columns: int, scale: float
) -> float:
    output = shared.floats_at(output_at, rows, columns)
    target = shared.floats_at(target_at, rows, columns)
    grad = shared.floats_at(grad_at, rows, columns)
    factor = np.float32(2 * scale)
    total = 0.0
    for row in range(rows):
        of_row = np.float32(0)
        for i in range(columns):
            difference = output[row, i] - target[row, i]
            of_row += difference * difference
            grad[row, i] = factor * difference
        total += float(of_row)
    return total


@_vectorized
def _cross_entropy(
    output_at: int, target_at: int, grad_at: int, rows: int, columns: int, scale: float
) -> float:
    """The cross-entropy from logits. Summed in this order, a confident and right prediction keeps
    its small loss."""
    output = shared.floats_at(output_at, rows, columns)
    target = shared.floats_at(target_at, rows, columns)
    grad = shared.floats_at(grad_at, rows, columns)
    factor = np.float32(scale)
    total = 0.0
    for row in range(rows):
        of_row = np.float32(0)
        for i in range(columns):
            z, t = output[row, i], target[row, i]
            negative = z if z < np.float32(0) else np.float32(0)
            of_row += ((np.float32(1) - t) * z - negative) + shared.log1p_exp_negative(abs(z))
            grad[row, i] = factor * (shared.sigmoid(z) - t)
        total += float(of_row)
    return total
