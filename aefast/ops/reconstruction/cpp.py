"""The reconstruction loss in C++: csrc/reconstruction.cpp, around the products of csrc/gemm.cpp."""

from typing import Any

import torch
from torch import Tensor

from aefast import backend
from aefast.ops.linear_act import FROM_PREACTIVATION, what_backward_needs
from aefast.ops.reconstruction import panels
from aefast.ops.reconstruction.settings import PerInput, Settings
from aefast.ops.shared import cpp as shared

_C = backend.extension()


def reconstruction_loss(
    inputs: PerInput[Any], settings: Settings, scale: float, needed: PerInput[bool]
) -> tuple[float | Tensor, PerInput[Any]]:
    detached = PerInput(*(None if tensor is None else tensor.detach() for tensor in inputs))
    return panels.reconstruction_loss(_Kernels(), detached, settings, scale, needed)


class _Kernels:
    """What panels.Kernels asks for."""

    def operand(self, right: Tensor) -> shared.RightOperand:
        return shared.packed_operand(right)

    def corrupt(
        self, x: Tensor, kind: str, level: float, seed: int | Tensor, row_offset: int
    ) -> Tensor:
        corrupt = backend.implementation("corrupt", "cpp").corrupt
        return corrupt(x, kind, level, 0.0, 1.0, seed, row_offset)

    def encode(
        self, x: Tensor, weight: shared.RightOperand, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor | None]:
        keep_preactivation = activation in FROM_PREACTIVATION
        code, preactivation = shared.linear_act(x, weight, bias, activation, keep_preactivation)
        return code, what_backward_needs(activation, code, preactivation)

    def compare(
        self,
        code: Tensor,
        weight: shared.RightOperand,
        bias: Tensor | None,
        target: Tensor,
        settings: Settings,
        scale: float,
        wanted: panels.Wanted,
    ) -> panels.Compared:
        output, _ = shared.linear_act(code, weight, bias, "identity", False)
        rows, columns = output.shape
        if target.stride(1) != 1:
            target = target.contiguous()
        grad_target = torch.empty_like(output) if wanted.target else None
        grad_bias = output.new_empty(columns) if wanted.bias else None
        sums = shared.partial_sums(rows if wanted.bias else 0, columns)
        loss = _C.compare(
            output.data_ptr(),
            target.data_ptr(),
            target.stride(0),
            0 if grad_target is None else grad_target.data_ptr(),
            0 if grad_bias is None else grad_bias.data_ptr(),
            sums.data_ptr(),
            wanted.output or wanted.bias,
            getattr(_C.Loss, settings.loss),
            getattr(_C.Activation, settings.output_activation),
            scale,
            rows,
            columns,
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

    def multiply(self, left: Tensor, right: shared.RightOperand) -> Tensor:
        return shared.multiply(left, right)

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        operand = shared.right_operand(right.t())
        if total is None:
            return shared.multiply(left.t(), operand)
        return shared.add_product(left.t(), operand, total)
