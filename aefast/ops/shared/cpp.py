"""Products, activations and their gradients, as the C++ backends of several ops call them.

Where the vendor library's product is faster it is used, with the activation in a pass after it.

Memory is made by ``torch.FloatTensor`` and its like, which take half the time of ``torch.empty``
with a dtype and a device, and are on the CPU whatever the default device is. They take the sizes
one by one: of a ``torch.Size`` they take four times as long.
"""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from aefast.ops.shared.extension import _C
from aefast.ops.shared.product_routes import level_of_ours

ELEMENT_TYPES = {
    torch.float32: _C.ElementType.float32,
    torch.bfloat16: _C.ElementType.bfloat16,
    torch.float16: _C.ElementType.float16,
}


ACTIVATIONS = _C.Activation.__members__

# A matrix as a kernel takes it: address, rows, columns, row stride, column stride.
Matrix: TypeAlias = tuple[int, int, int, int, int]


def as_matrix(tensor: Tensor) -> Matrix:
    """A matrix as a kernel takes it. Strides are in elements."""
    rows, columns = tensor.shape
    row_stride, column_stride = tensor.stride()
    return tensor.data_ptr(), rows, columns, row_stride, column_stride


def own_precision(dtype: torch.dtype, weight_size: int) -> _C.Precision | None:
    """The precision of our own product if it is faster than the vendor's for a weight of so many
    elements; else None."""
    if dtype != torch.float32:
        return None
    level = level_of_ours(weight_size)
    precision: _C.Precision | None = None if level is None else getattr(_C.Precision, level)
    return precision


class RightOperand(NamedTuple):
    """The right operand of a product left [M, K] @ matrix.T, and how the product is made."""

    matrix: Tensor  # [N, K]
    precision: _C.Precision | None  # of our own product; None where the vendor's is faster
    packed: Tensor | None = None  # the matrix as the matrix units read it


def right_operand(matrix: Tensor) -> RightOperand:
    """A weight as the operand of a single product, which packs its blocks as it uses them."""
    return RightOperand(matrix, own_precision(matrix.dtype, matrix.numel()))


def packed_operand(matrix: Tensor) -> RightOperand:
    """An operand of several products, packed once where that pays: on matrix units."""
    operand = right_operand(matrix)
    precision = operand.precision
    if precision is None or not packing_pays(operand):
        return operand
    rows, depth = matrix.shape
    size = _C.packed_bytes(rows, depth, precision)
    packed = torch.empty(size, dtype=torch.uint8, device="cpu")
    _C.pack_tiles(as_matrix(matrix), precision, packed.data_ptr(), torch.get_num_threads())
    return operand._replace(packed=packed)


def packing_pays(operand: RightOperand) -> bool:
    """Whether packing an operand beforehand makes its products faster."""
    return operand.precision not in (None, _C.Precision.highest) and _C.has_matrix_units()


def fingerprint(matrix: Tensor) -> int:
    """A 64-bit hash of a dense float32 matrix: it changes when the matrix's bits change."""
    return _C.fingerprint(as_matrix(matrix), torch.get_num_threads())


def linear_act(
    x: Tensor, weight: RightOperand, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    """act(x Wt + b), and the pre-activation if it is to be kept."""
    if weight.precision is not None and x.shape[0] > 1:
        return _gemm(x, weight, bias, activation, keep_preactivation)
    matrix = weight.matrix.t()
    output = torch.mm(x, matrix) if bias is None else torch.addmm(bias, x, matrix)
    preactivation = output.clone() if keep_preactivation else None
    if activation != "identity":
        _C.activate(
            output.data_ptr(),
            ELEMENT_TYPES[output.dtype],
            output.numel(),
            ACTIVATIONS[activation],
            torch.get_num_threads(),
        )
    return output, preactivation


def multiply(left: Tensor, right: RightOperand) -> Tensor:
    """left [M, K] times the transpose of right [N, K]."""
    # A single row reads the right operand once, which is quicker than packing it.
    if right.precision is None or left.shape[0] == 1:
        return torch.mm(left, right.matrix.t())
    return _gemm(left, right)[0]


def add_product(left: Tensor, right: RightOperand, total: Tensor) -> Tensor:
    """total + left [M, K] times the transpose of right [N, K], in total's memory."""
    if right.precision is None or left.shape[0] == 1 or not total.is_contiguous():
        return total.addmm_(left, right.matrix.t())
    return _gemm(left, right, total=total)[0]


def add_transposed_product(left: Tensor, right: Tensor, total: Tensor | None) -> Tensor:
    """total + the transpose of left [P, M] times right [P, N], in total's memory; None for none."""
    size = left.shape[1] * right.shape[1]  # of the weight whose gradient it is
    operand = RightOperand(right.t(), own_precision(right.dtype, size))
    if total is None:
        return multiply(left.t(), operand)
    return add_product(left.t(), operand, total)


def activation_backward(
    grad: Tensor, saved: Tensor, activation: str, bias_needed: bool, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """``grad * act'`` and, in the same pass, its sum over the rows; ``out`` may be ``grad``."""
    if grad.stride(1) != 1:
        grad = grad.contiguous()
    rows, columns = grad.shape
    grad_preactivation = grad.new_empty(rows, columns) if out is None else out
    grad_bias = grad.new_empty(columns) if bias_needed else None
    sums = partial_sums(rows if bias_needed else 0, columns)
    _C.activation_backward(
        as_matrix(grad),
        saved.data_ptr(),
        grad_preactivation.data_ptr(),
        0 if grad_bias is None else grad_bias.data_ptr(),
        sums.data_ptr(),
        ELEMENT_TYPES[grad.dtype],
        ACTIVATIONS[activation],
        torch.get_num_threads(),
    )
    return grad_preactivation, grad_bias


def partial_sums(rows: int, columns: int) -> Tensor:
    """Memory for a kernel's sums of each block of rows."""
    blocks = -(-rows // _C.ROWS_PER_PARTIAL_SUM)
    return torch.DoubleTensor(blocks, columns)


def _gemm(
    left: Tensor,
    right: RightOperand,
    bias: Tensor | None = None,
    activation: str = "identity",
    keep_preactivation: bool = False,
    total: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    matrix, precision, packed = right
    assert precision is not None  # else the vendor's product serves
    output = left.new_empty(left.shape[0], matrix.shape[0]) if total is None else total
    preactivation = torch.empty_like(output) if keep_preactivation else None
    if bias is not None and bias.stride(0) != 1:
        bias = bias.contiguous()
    _C.gemm(
        as_matrix(left),
        as_matrix(matrix),
        0 if packed is None else packed.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        ACTIVATIONS[activation],
        output.data_ptr(),
        0 if preactivation is None else preactivation.data_ptr(),
        total is not None,
        precision,
        torch.get_num_threads(),
    )
    return output, preactivation
