# mypy: allow-untyped-defs
"""The contractive penalty on the GPU, around the products of shared/triton_gemm.py."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast.ops.jacobian import kernels as plain
from aefast.ops.linear_act import FROM_PREACTIVATION
from aefast.ops.shared import triton_activation, triton_gemm
from aefast.ops.shared.triton import (
    ACTIVATIONS,
    TYPE_NAMES,
    Variant,
    activation_curvature,
    activation_gradient,
    device_of,
    round_to,
)


@triton.jit(
    do_not_specialize=["rows", "columns", "saved_row_stride", "activation"],
    do_not_specialize_on_alignment=["saved_pointer", "lengths_pointer", "penalty_pointer"],
)
def contract_kernel(
    saved_pointer,  # [rows, columns padded to whole units]
    lengths_pointer,  # [columns] float32
    penalty_pointer,  # [rows] float32
    saved_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    activation: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
):
    """sum_j slope_j^2 lengths_j of ROWS rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        saved = _load_rows(saved_pointer, saved_row_stride, row, column, rows, columns, UNIT)
        lengths = tl.load(lengths_pointer + column, mask=column < columns, other=0.0)
        slope = activation_gradient(tl.full(saved.shape, 1.0, tl.float32), saved, activation)
        total += slope * slope * lengths[None, :]
    tl.store(penalty_pointer + row, tl.sum(total, axis=1), mask=row < rows)


@triton.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "saved_row_stride",
        "grad_code_row_stride",
        "grad_slope_row_stride",
        "activation",
        "has_code",
        "has_slope",
    ],
    do_not_specialize_on_alignment=[
        "saved_pointer",
        "grad_code_pointer",
        "grad_slope_pointer",
        "grad_penalty_pointer",
        "lengths_pointer",
        "grad_preactivation_pointer",
        "partial_pointer",
    ],
)
def slope_backward_kernel(
    saved_pointer,  # [rows, columns padded to whole units]
    grad_code_pointer,  # [rows, columns padded], read if has_code
    grad_slope_pointer,  # [rows, columns padded], read if has_slope
    grad_penalty_pointer,  # [rows] float32, read if not has_slope
    lengths_pointer,  # [columns] float32, likewise
    grad_preactivation_pointer,  # [rows, columns padded]
    partial_pointer,  # [row blocks, 2, columns] float32: sums for the bias, and for the lengths
    saved_row_stride: tl.int64,
    grad_code_row_stride: tl.int64,
    grad_slope_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    activation: tl.int32,
    has_code: tl.int32,
    has_slope: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
):
    """grad_code slope + grad_slope curvature, and column sums over STEPS * ROWS rows.

    Without a grad_slope it is the penalty's, 2 grad_penalty slope lengths.
    """
    padded_columns = tl.cdiv(columns, UNIT) * UNIT
    column_blocks = tl.cdiv(padded_columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    lengths = tl.load(
        lengths_pointer + column, mask=(column < columns) & (has_slope == 0), other=0.0
    )
    bias_total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    lengths_total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        saved = _load_rows(saved_pointer, saved_row_stride, row, column, rows, columns, UNIT)
        slope = activation_gradient(tl.full(saved.shape, 1.0, tl.float32), saved, activation)
        curvature = activation_curvature(saved, activation)
        grad = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        if has_slope != 0:
            grad = curvature * _load_rows(
                grad_slope_pointer, grad_slope_row_stride, row, column, rows, columns, UNIT
            )
        else:
            penalty = tl.load(grad_penalty_pointer + row, mask=row < rows, other=0.0)[:, None]
            grad = 2.0 * penalty * lengths[None, :] * slope * curvature
            lengths_total += penalty * slope * slope
        if has_code != 0:
            grad += slope * _load_rows(
                grad_code_pointer, grad_code_row_stride, row, column, rows, columns, UNIT
            )
        bias_total += tl.where((row < rows)[:, None], grad, 0.0)
        pointers = grad_preactivation_pointer + row.to(tl.int64)[:, None] * padded_columns
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        tl.store(
            tl.multiple_of(pointers + column[None, :], [1, 16]),
            round_to(grad, grad_preactivation_pointer.dtype.element_ty),
            mask=tl.max_constancy(mask, [1, UNIT]),
        )
    partial = partial_pointer + row_block.to(tl.int64) * 2 * columns + column
    tl.store(partial, tl.sum(bias_total, axis=0), mask=column < columns)
    tl.store(partial + columns, tl.sum(lengths_total, axis=0), mask=column < columns)


@triton.jit
def _load_rows(pointer, row_stride, row, column, rows, columns, UNIT: tl.constexpr):
    """A float32 tile of a matrix whose rows are filled up to whole units."""
    pointers = pointer + row.to(tl.int64)[:, None] * row_stride + column[None, :]
    mask = (row < rows)[:, None] & (column < tl.cdiv(columns, UNIT) * UNIT)[None, :]
    pointers = tl.multiple_of(pointers, [1, 16])
    return tl.load(pointers, mask=tl.max_constancy(mask, [1, UNIT]), other=0.0).to(tl.float32)


CONTRACT_ROWS, CONTRACT_COLUMNS = 4, 256
BACKWARD_ROWS, BACKWARD_COLUMNS, BACKWARD_STEPS = 16, 128, 4


def _contract_variant(dtype: torch.dtype) -> Variant:
    types = {
        "saved_pointer": f"*{TYPE_NAMES[dtype]}",
        "lengths_pointer": "*fp32",
        "penalty_pointer": "*fp32",
    }
    constants = {
        "ROWS": CONTRACT_ROWS,
        "COLUMNS": CONTRACT_COLUMNS,
        "UNIT": triton_gemm.unit(dtype),
    }
    return Variant(contract_kernel, types, constants)


def _backward_variant(dtype: torch.dtype) -> Variant:
    narrow = ("saved", "grad_code", "grad_slope", "grad_preactivation")
    types = {f"{name}_pointer": f"*{TYPE_NAMES[dtype]}" for name in narrow}
    wide = ("grad_penalty", "lengths", "partial")
    types |= {f"{name}_pointer": "*fp32" for name in wide}
    constants = {
        "ROWS": BACKWARD_ROWS,
        "COLUMNS": BACKWARD_COLUMNS,
        "STEPS": BACKWARD_STEPS,
        "UNIT": triton_gemm.unit(dtype),
    }
    return Variant(slope_backward_kernel, types, constants)


def variants(generation: int) -> Iterator[Variant]:
    """What the passes can launch beside linear_act's and corrupt's kernels."""
    for dtype in TYPE_NAMES:
        yield _contract_variant(dtype)
        yield _backward_variant(dtype)


def kernels() -> plain.Kernels:
    return Kernels()


class Kernels(plain.Kernels):
    """``saved`` is what linear_act calls so, and for the identity the code."""

    panel_bytes = 16 << 20  # rows, their product and its gradient stay in an H200's L2, 60 MB

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

    def contract(self, saved: Tensor, activation: str, squared_lengths: Tensor) -> Tensor:
        rows, columns = saved.shape
        penalty = saved.new_empty(rows, dtype=torch.float32)
        saved = triton_gemm.aligned(saved)
        with device_of(saved):
            _contract_variant(saved.dtype).launch(
                triton.cdiv(rows, CONTRACT_ROWS),
                saved,
                squared_lengths,
                penalty,
                saved.stride(0),
                rows,
                columns,
                ACTIVATIONS[activation],
            )
        return penalty

    def slope_backward(
        self, saved: Tensor, activation: str, grad_code: Tensor | None, grad_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        grad, (grad_bias, _) = _backward(saved, activation, grad_code, grad_slope=grad_slope)
        return grad, grad_bias

    def contract_backward(
        self,
        saved: Tensor,
        activation: str,
        grad_code: Tensor | None,
        grad_penalty: Tensor,
        squared_lengths: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, (grad_bias, grad_lengths) = _backward(
            saved,
            activation,
            grad_code,
            grad_penalty=grad_penalty.float().contiguous(),
            squared_lengths=squared_lengths,
        )
        return grad, grad_bias, grad_lengths


def _backward(
    saved: Tensor,
    activation: str,
    grad_code: Tensor | None,
    *,
    grad_slope: Tensor | None = None,
    grad_penalty: Tensor | None = None,
    squared_lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows, columns = saved.shape
    saved = triton_gemm.aligned(saved)
    unread = saved  # where the kernel takes a pointer that it makes no use of
    grad_code = None if grad_code is None else triton_gemm.aligned(grad_code)
    grad_slope = None if grad_slope is None else triton_gemm.aligned(grad_slope)
    padded_columns = triton_gemm.padded(columns, saved.dtype)
    grad = saved.new_empty(rows, padded_columns)
    row_blocks = triton.cdiv(rows, BACKWARD_ROWS * BACKWARD_STEPS)
    partials = saved.new_empty(row_blocks, 2, columns, dtype=torch.float32)
    with device_of(saved):
        _backward_variant(saved.dtype).launch(
            row_blocks * triton.cdiv(padded_columns, BACKWARD_COLUMNS),
            saved,
            unread if grad_code is None else grad_code,
            unread if grad_slope is None else grad_slope,
            partials if grad_penalty is None else grad_penalty,
            partials if squared_lengths is None else squared_lengths,
            grad,
            partials,
            saved.stride(0),
            0 if grad_code is None else grad_code.stride(0),
            0 if grad_slope is None else grad_slope.stride(0),
            rows,
            columns,
            ACTIVATIONS[activation],
            int(grad_code is not None),
            int(grad_slope is not None),
        )
    return grad[:, :columns], partials.sum(0)
