"""Sparse coding in C++: csrc/ops/sparse_coding/, after the products of csrc/gemm/."""

import torch
import torch.nn.functional as F
from torch import Tensor

from aefast.ops.shared import cpp as shared
from aefast.ops.shared.extension import _C
from aefast.ops.shared.precision import product_level
from aefast.ops.sparse_coding.problem import Problem


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    x = x.contiguous()
    output = torch.empty_like(x)
    _C.soft_threshold(
        x.data_ptr(),
        output.data_ptr(),
        shared.ELEMENT_TYPES[x.dtype],
        x.numel(),
        threshold,
        torch.get_num_threads(),
    )
    return output


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    output = torch.empty_like(x)
    _C.soft_threshold_backward(
        grad.data_ptr(),
        x.data_ptr(),
        output.data_ptr(),
        shared.ELEMENT_TYPES[x.dtype],
        x.numel(),
        threshold,
        torch.get_num_threads(),
    )
    return output


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T by our own product, in which a row does not depend on the rows beside it."""
    precision = getattr(_C.Precision, product_level("cpu"))
    rows = left if left.shape[0] > 1 else left.expand(2, -1)
    return shared.multiply(rows, shared.RightOperand(right, precision))[: left.shape[0]]


def encode(problem: Problem, start: Tensor) -> Tensor:
    atoms = start.shape[1]
    codes = start.clone(memory_format=torch.contiguous_format)
    gram = F.pad(problem.gram, (0, -atoms % _C.ATOM_LANES)).contiguous()
    _C.sparse_encode(
        shared.as_matrix(problem.correlation),
        problem.energy.data_ptr(),
        shared.as_matrix(gram),
        shared.as_matrix(codes),
        max(problem.gram.diagonal().max().item(), torch.finfo(torch.float32).tiny),
        problem.penalty,
        problem.tolerance,
        problem.steps,
        torch.get_num_threads(),
    )
    return codes
