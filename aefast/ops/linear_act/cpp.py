"""A linear layer with its activation in C++: csrc/gemm.cpp, gemm_amx.cpp and linear_act.cpp.

Where the vendor's product is the faster one, it serves, with the activation in a pass after it.
"""

import torch
from torch import Tensor

from aefast.backend import extension

_C = extension()

_ELEMENT_TYPES = {
    torch.float32: _C.ElementType.float32,
    torch.bfloat16: _C.ElementType.bfloat16,
    torch.float16: _C.ElementType.float16,
}


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    precision = _own_precision(x)
    if precision is not None and x.shape[0] > 1:
        return _gemm(x, weight, bias, activation, keep_preactivation, precision)
    weight = weight.t()
    output = torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
    preactivation = output.clone() if keep_preactivation else None
    if activation != "identity":
        _C.activate(
            output.data_ptr(),
            _ELEMENT_TYPES[output.dtype],
            output.numel(),
            getattr(_C.Activation, activation),
            torch.get_num_threads(),
        )
    return output, preactivation


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    activation: str,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if saved is None:
        grad_preactivation, grad_bias = grad, grad.sum(0) if needed[2] else None
    else:
        grad_preactivation, grad_bias = _activation_backward(grad, saved, activation, needed[2])
    precision = _own_precision(x)
    grad_x = _product(grad_preactivation, weight.t(), precision) if needed[0] else None
    grad_weight = _product(grad_preactivation.t(), x.t(), precision) if needed[1] else None
    return grad_x, grad_weight, grad_bias


def _own_precision(x: Tensor) -> object | None:
    """The precision of our own product where it is faster than the vendor's; None elsewhere."""
    if x.dtype != torch.float32:
        return None
    precision = getattr(_C.Precision, torch.get_float32_matmul_precision())
    return precision if _C.outpaces_vendor_gemm(precision) else None


def _product(left: Tensor, right: Tensor, precision: object | None) -> Tensor:
    """left [M, K] times the transpose of right [N, K]."""
    # A single row reads the right operand once, which is quicker than packing it.
    if precision is None or left.shape[0] == 1:
        return torch.mm(left, right.t())
    return _gemm(left, right, None, "identity", False, precision)[0]


def _gemm(
    left: Tensor,
    right: Tensor,
    bias: Tensor | None,
    activation: str,
    keep_preactivation: bool,
    precision: object,
) -> tuple[Tensor, Tensor | None]:
    output = left.new_empty(left.shape[0], right.shape[0])
    preactivation = torch.empty_like(output) if keep_preactivation else None
    if bias is not None and bias.stride(0) != 1:
        bias = bias.contiguous()
    _C.gemm(
        left.data_ptr(),
        *left.shape,
        *left.stride(),
        right.data_ptr(),
        *right.shape,
        *right.stride(),
        0 if bias is None else bias.data_ptr(),
        getattr(_C.Activation, activation),
        output.data_ptr(),
        0 if preactivation is None else preactivation.data_ptr(),
        precision,
        torch.get_num_threads(),
    )
    return output, preactivation


def _activation_backward(
    grad: Tensor, saved: Tensor, activation: str, bias_needed: bool
) -> tuple[Tensor, Tensor | None]:
    """``grad * act'`` and, in the same pass, its sum over the rows."""
    if grad.stride(1) != 1:
        grad = grad.contiguous()
    rows, columns = grad.shape
    grad_preactivation = grad.new_empty(rows, columns)
    grad_bias = grad.new_empty(columns) if bias_needed else None
    blocks = -(-rows // _C.ROWS_PER_PARTIAL_SUM) if bias_needed else 0
    partial_sums = grad.new_empty(blocks, columns, dtype=torch.float64)
    _C.activation_backward(
        grad.data_ptr(),
        grad.stride(0),
        saved.data_ptr(),
        grad_preactivation.data_ptr(),
        0 if grad_bias is None else grad_bias.data_ptr(),
        partial_sums.data_ptr(),
        _ELEMENT_TYPES[grad.dtype],
        rows,
        columns,
        getattr(_C.Activation, activation),
        torch.get_num_threads(),
    )
    return grad_preactivation, grad_bias
