"""The reconstruction loss in C++: csrc/ops/reconstruction/, around the products of csrc/gemm/."""

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.corrupt.noise import Noise
from aefast.ops.linear_act.op import FROM_PREACTIVATION, saved_for_backward
from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction.settings import Gradients, LossInputs, LossSettings, PerInput
from aefast.ops.shared import cpp as shared
from aefast.ops.shared.extension import _C

# Our product packs its right operand anew for each panel: with 4 MiB a step took 2 to 8% longer,
# with 16 not less. The vendor's packs both factors, and was 0.87 to 0.96 times as fast on panels of
# 4 MiB as on the whole batch.
PANEL_BYTES = 8 << 20
VENDOR_PANEL_BYTES = 16 << 20
# Below this many multiplications in a product eager PyTorch is done before the panels are set up:
# at 64x64-32 in 0.10 ms against 0.16; at 128x784-64 it takes 0.51 against 0.39.
FEWEST_PRODUCTS = 1 << 21


def reconstruction_loss(
    inputs: LossInputs, settings: LossSettings, scale: float, needs_grad: PerInput[bool]
) -> tuple[float | Tensor, Gradients]:
    detached = LossInputs._make(None if tensor is None else tensor.detach() for tensor in inputs)
    primitives = _Primitives(_panel_bytes(inputs))
    return panels.reconstruction_loss(primitives, detached, settings, scale, needs_grad)


def pays(inputs: LossInputs) -> bool:
    """Whether panels pay. With the vendor's product they save memory alone, and only if they are
    several."""
    hidden = inputs.encoder_weight.shape[0]
    if _panel_bytes(inputs) == VENDOR_PANEL_BYTES:
        return len(panels.panels_of(inputs.x, hidden, VENDOR_PANEL_BYTES)) > 1
    return inputs.x.numel() * hidden >= FEWEST_PRODUCTS


def _panel_bytes(inputs: LossInputs) -> int:
    precision = shared.own_precision(inputs.x.dtype, inputs.encoder_weight.numel())
    return VENDOR_PANEL_BYTES if precision is None else PANEL_BYTES


class _Primitives:
    """Implements panels.LossPrimitives."""

    def __init__(self, panel_bytes: int = PANEL_BYTES) -> None:
        self.panel_bytes = panel_bytes

    def operand(self, right: Tensor) -> shared.RightOperand:
        return shared.packed_operand(right)

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        return backend.implementation("corrupt", "cpp").corrupt(x, noise)

    def encode(
        self, x: Tensor, weight: shared.RightOperand, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        keep_preactivation = activation in FROM_PREACTIVATION
        code, preactivation = shared.linear_act(x, weight, bias, activation, keep_preactivation)
        return code, saved_for_backward(activation, code, preactivation)

    def compare(
        self,
        code: Tensor,
        weight: shared.RightOperand,
        bias: Tensor | None,
        target: Tensor,
        settings: LossSettings,
        scale: float,
        needs_grad: panels.ComparisonGradients,
    ) -> panels.Compared:
        output, _ = shared.linear_act(code, weight, bias, "identity", False)
        rows, columns = output.shape
        if target.stride(1) != 1:
            target = target.contiguous()
        grad_target = torch.empty_like(output) if needs_grad.target else None
        grad_bias = output.new_empty(columns) if needs_grad.bias else None
        sums = shared.partial_sums(rows if needs_grad.bias else 0, columns)
        loss = _C.compare(
            shared.as_matrix(output),
            shared.as_matrix(target),
            0 if grad_target is None else grad_target.data_ptr(),
            0 if grad_bias is None else grad_bias.data_ptr(),
            sums.data_ptr(),
            needs_grad.output or needs_grad.bias,
            getattr(_C.Loss, settings.reconstruction),
            shared.ACTIVATIONS[settings.output_activation],
            scale,
            torch.get_num_threads(),
        )
        return panels.Compared(loss, output, grad_bias, grad_target)

    def encode_backward(
        self,
        grad_output: Tensor,
        weight: shared.RightOperand,
        saved: Tensor | None,
        activation: str,
        bias_needed: bool,
    ) -> tuple[Tensor, Tensor | None]:
        grad = shared.multiply(grad_output, weight)
        if saved is None:
            return grad, grad.sum(0, dtype=torch.float64) if bias_needed else None
        return shared.activation_backward(grad, saved, activation, bias_needed, out=grad)

    def contraction(self) -> PenaltyPrimitives:
        return backend.implementation("contractive", "cpp").primitives()

    def multiply(self, left: Tensor, right: shared.RightOperand) -> Tensor:
        return shared.multiply(left, right)

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        return shared.add_transposed_product(left, right, total)
