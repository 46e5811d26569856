"""The reconstruction loss in numba, around the vendor's matrix products."""

from collections.abc import Callable

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

# Rows whose losses are added up apart from the others', whatever the number of threads.
ROWS_PER_TASK = 32
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
        kernel = _cross_entropy if settings.reconstruction == "bce" else _squared_error
        loss, grad, grad_target = _compare(kernel, output, target, scale)
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


def _compare(
    kernel: Callable[..., float], output: Tensor, target: Tensor, scale: float
) -> tuple[float, Tensor, Tensor]:
    """The summed loss, and its gradients by the output and by the target."""
    grad_output, grad_target = torch.empty_like(output), torch.empty_like(output)
    arrays = [t.numpy() for t in (output, target.contiguous(), grad_output, grad_target)]
    losses = np.empty(-(-output.shape[0] // ROWS_PER_TASK))

    def task(index: int) -> None:
        rows = slice(index * ROWS_PER_TASK, (index + 1) * ROWS_PER_TASK)
        flat = (array[rows].reshape(-1) for array in arrays)
        losses[index] = kernel(*flat, np.float32(scale))

    shared.parallel_for(losses.size, task)
    return float(losses.sum()), grad_output, grad_target


# A sum in the order of its elements would keep the compiler from vectorizing.
_vectorized = njit(nogil=True, cache=shared.CACHE, fastmath={"reassoc", "contract"})


@_vectorized
def _squared_error(
    output: np.ndarray,
    target: np.ndarray,
    grad_output: np.ndarray,
    grad_target: np.ndarray,
    scale: np.float32,
) -> float:
    total = 0.0
    for i in range(output.size):
        difference = output[i] - target[i]
        total += difference * difference
        grad_output[i] = np.float32(2) * scale * difference
        grad_target[i] = -grad_output[i]
    return total


@_vectorized
def _cross_entropy(
    output: np.ndarray,
    target: np.ndarray,
    grad_output: np.ndarray,
    grad_target: np.ndarray,
    scale: np.float32,
) -> float:
    """The cross-entropy from logits. Summed in this order, a confident and right prediction keeps
    its small loss."""
    total = 0.0
    for i in range(output.size):
        z = output[i]
        negative = z if z < np.float32(0) else np.float32(0)
        total += ((np.float32(1) - target[i]) * z - negative) + shared.log1p_exp_negative(abs(z))
        grad_output[i] = scale * (shared.sigmoid(z) - target[i])
        grad_target[i] = -scale * z
    return total
