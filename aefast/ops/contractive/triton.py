"""The contractive penalty on the GPU, around the products of shared/triton_gemm.py."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.contractive.primitives import PenaltyPrimitives
from aefast.ops.contractive.row_lengths import RowLengths
from aefast.ops.linear_act.op import FROM_PREACTIVATION
from aefast.ops.shared import triton_activation, triton_gemm
from aefast.ops.shared.triton import ACTIVATIONS, TYPE_NAMES, Variant, cdiv, device_of, strides_of

SCALE_COLUMNS = 256
CONTRACT_ROWS, CONTRACT_COLUMNS = 4, 256
BACKWARD_ROWS, BACKWARD_COLUMNS, BACKWARD_STEPS = 8, 128, 8


@cache
def _scale_variant() -> Variant:
    types = {f"{name}_pointer": "*fp32" for name in ("weight", "squares", "scales")}
    return Variant("contractive.triton_kernels.scale_kernel", types, {"COLUMNS": SCALE_COLUMNS})


@cache
def _contract_variant(dtype: torch.dtype) -> Variant:
    types = {
        "saved_pointer": f"*{TYPE_NAMES[dtype]}",
        "squares_pointer": "*fp32",
        "scales_pointer": "*fp32",
        "penalty_pointer": "*fp32",
    }
    constants = {
        "ROWS": CONTRACT_ROWS,
        "COLUMNS": CONTRACT_COLUMNS,
        "ALIGNMENT": triton_gemm.alignment(dtype),
    }
    return Variant("contractive.triton_kernels.contract_kernel", types, constants)


@cache
def _backward_variant(dtype: torch.dtype) -> Variant:
    narrow = ("saved", "grad_code", "grad_slope", "grad_preactivation")
    types = {f"{name}_pointer": f"*{TYPE_NAMES[dtype]}" for name in narrow}
    wide = ("grad_penalty", "squares", "scales", "partial")
    types |= {f"{name}_pointer": "*fp32" for name in wide}
    constants = {
        "ROWS": BACKWARD_ROWS,
        "COLUMNS": BACKWARD_COLUMNS,
        "STEPS": BACKWARD_STEPS,
        "ALIGNMENT": triton_gemm.alignment(dtype),
    }
    return Variant("contractive.triton_kernels.slope_backward_kernel", types, constants)


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file that the passes can launch."""
    yield _scale_variant()
    for dtype in TYPE_NAMES:
        yield _contract_variant(dtype)
        yield _backward_variant(dtype)


def primitives() -> PenaltyPrimitives:
    return _Primitives()


class _Primitives(PenaltyPrimitives):
    """``saved`` is what linear_act's backward pass reads: the pre-activation or the code."""

    def panel_bytes(self, device: torch.device) -> int:
        return triton_gemm.panel_bytes(device)

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        return triton_gemm.multiply(left, right)[0]

    def add_product(self, left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
        return triton_gemm.add_product(left.t(), right.t(), total)

    def encode(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str
    ) -> tuple[Tensor, Tensor]:
        keep_preactivation = activation in FROM_PREACTIVATION
        code, preactivation = triton_gemm.multiply(x, weight, bias, activation, keep_preactivation)
        return code, code if preactivation is None else preactivation

    def slopes(self, saved: Tensor, activation: str) -> Tensor:
        ones = saved.new_ones(1, 1).expand_as(saved)
        if activation == "identity":
            return ones.contiguous()
        slopes, _ = triton_activation.activation_backward(ones, saved, activation)
        return slopes[:, : saved.shape[1]].contiguous()

    def row_lengths(self, weight: Tensor) -> RowLengths:
        squares = (weight * weight).sum(1)
        scales = torch.empty_like(squares)
        with device_of(weight):
            _scale_variant().launch(
                weight.shape[0],
                weight_pointer=weight,
                squares_pointer=squares,
                scales_pointer=scales,
                **strides_of(weight=weight),
                columns=weight.shape[1],
            )
        return RowLengths(squares, scales)

    def penalty(self, saved: Tensor, activation: str, lengths: RowLengths) -> Tensor:
        rows, columns = saved.shape
        penalty = saved.new_empty(rows, dtype=torch.float32)
        saved = triton_gemm.aligned(saved)
        with device_of(saved):
            _contract_variant(saved.dtype).launch(
                cdiv(rows, CONTRACT_ROWS),
                saved_pointer=saved,
                squares_pointer=lengths.squares,
                scales_pointer=lengths.scales,
                penalty_pointer=penalty,
                saved_row_stride=saved.stride(0),
                rows=rows,
                columns=columns,
                activation=ACTIVATIONS[activation],
            )
        return penalty

    def slope_backward(
        self, saved: Tensor, activation: str, grad_code: Tensor | None, grad_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad, (grad_bias, _) = _backward(saved, activation, grad_code, grad_slope=grad_slope)
        return grad, grad_bias

    def penalty_backward(
        self,
        saved: Tensor,
        activation: str,
        grad_code: Tensor | None,
        grad_penalty: Tensor,
        lengths: RowLengths,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, (grad_bias, grad_lengths) = _backward(
            saved,
            activation,
            grad_code,
            grad_penalty=grad_penalty.float().contiguous(),
            lengths=lengths,
        )
        return grad, grad_bias, grad_lengths


def _backward(
    saved: Tensor,
    activation: str,
    grad_code: Tensor | None,
    *,
    grad_slope: Tensor | None = None,
    grad_penalty: Tensor | None = None,
    lengths: RowLengths | None = None,
) -> tuple[Tensor, Tensor]:
    rows, columns = saved.shape
    saved = triton_gemm.aligned(saved)
    unread = saved  # for pointers that the kernel does not read
    grad_code = None if grad_code is None else triton_gemm.aligned(grad_code)
    grad_slope = None if grad_slope is None else triton_gemm.aligned(grad_slope)
    padded_columns = triton_gemm.padded(columns, saved.dtype)
    grad = saved.new_empty(rows, padded_columns)
    row_blocks = cdiv(rows, BACKWARD_ROWS * BACKWARD_STEPS)
    partials = saved.new_empty(row_blocks, 2, columns, dtype=torch.float32)
    with device_of(saved):
        _backward_variant(saved.dtype).launch(
            row_blocks * cdiv(padded_columns, BACKWARD_COLUMNS),
            saved_pointer=saved,
            grad_code_pointer=unread if grad_code is None else grad_code,
            grad_slope_pointer=unread if grad_slope is None else grad_slope,
            grad_penalty_pointer=partials if grad_penalty is None else grad_penalty,
            squares_pointer=partials if lengths is None else lengths.squares,
            scales_pointer=partials if lengths is None else lengths.scales,
            grad_preactivation_pointer=grad,
            partial_pointer=partials,
            saved_row_stride=saved.stride(0),
            grad_code_row_stride=0 if grad_code is None else grad_code.stride(0),
            grad_slope_row_stride=0 if grad_slope is None else grad_slope.stride(0),
            rows=rows,
            columns=columns,
            activation=ACTIVATIONS[activation],
            has_code=int(grad_code is not None),
            has_slope=int(grad_slope is not None),
        )
    return grad[:, :columns], partials.sum(0)
