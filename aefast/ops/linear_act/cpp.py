"""A linear layer with its activation in C++: csrc/linear_act.cpp around the vendor's products."""

import torch
from torch import Tensor

from aefast.backend import extension

_C = extension()


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    weight = weight.t()
    output = torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
    preactivation = output.clone() if keep_preactivation else None
    if activation != "identity":
        _C.activate(
            output.data_ptr(),
            _element_type(output),
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
    grad_x = torch.mm(grad_preactivation, weight) if needed[0] else None
    grad_weight = torch.mm(grad_preactivation.t(), x) if needed[1] else None
    return grad_x, grad_weight, grad_bias


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
    partial_sums = torch.empty(blocks, columns, dtype=torch.float64)
    _C.activation_backward(
        grad.data_ptr(),
        grad.stride(0),
        saved.data_ptr(),
        grad_preactivation.data_ptr(),
        grad_bias.data_ptr() if grad_bias is not None else 0,
        partial_sums.data_ptr(),
        _element_type(grad),
        rows,
        columns,
        getattr(_C.Activation, activation),
        torch.get_num_threads(),
    )
    return grad_preactivation, grad_bias


def _element_type(tensor: Tensor) -> object:
    return _ELEMENT_TYPES[tensor.dtype]


_ELEMENT_TYPES = {
    torch.float32: _C.ElementType.float32,
    torch.bfloat16: _C.ElementType.bfloat16,
    torch.float16: _C.ElementType.float16,
}
