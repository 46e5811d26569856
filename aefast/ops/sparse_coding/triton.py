"""Sparse coding on the GPU: FISTA over all atoms. A step is a matrix product and a kernel.

The product is triton_gemm's, in full float32 whatever torch's precision setting: with less, FISTA
does not converge to the tolerance. The kernel computes the other parts of the step, one row for
each program, so that no row's result depends on another's.
"""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import TYPE_NAMES, Variant, cdiv, device_of
from aefast.ops.sparse_coding import eager
from aefast.ops.sparse_coding.problem import Problem

ELEMENTS = 1024  # elements that a program of an elementwise kernel takes
COLUMNS = 1024  # elements of a row that a program holds at a time
# After so many steps the host asks whether all rows are done, and waits for the answer.
STEPS_PER_CHECK = 16

STEP_POINTERS = [
    "correlation_pointer",
    "energy_pointer",
    "product_pointer",
    "code_pointer",
    "previous_pointer",
    "previous_product_pointer",
    "state_pointer",
    "done_pointer",
]


def _elementwise(kernel: str, dtype: torch.dtype, pointers: list[str]) -> Variant:
    types = dict.fromkeys(pointers, f"*{TYPE_NAMES[dtype]}")
    return Variant(f"sparse_coding.triton_kernels.{kernel}", types, {"ELEMENTS": ELEMENTS})


@cache
def _forward_variant(dtype: torch.dtype) -> Variant:
    return _elementwise("soft_threshold_kernel", dtype, ["x_pointer", "output_pointer"])


@cache
def _backward_variant(dtype: torch.dtype) -> Variant:
    pointers = ["gradient_pointer", "x_pointer", "output_pointer"]
    return _elementwise("soft_threshold_backward_kernel", dtype, pointers)


@cache
def _step_variant() -> Variant:
    types = dict.fromkeys(STEP_POINTERS, "*fp32") | {"done_pointer": "*i32"}
    return Variant("sparse_coding.triton_kernels.step_kernel", types, {"COLUMNS": COLUMNS})


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file, the same on all generations."""
    for dtype in TYPE_NAMES:
        yield _forward_variant(dtype)
        yield _backward_variant(dtype)
    yield _step_variant()


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    x = x.contiguous()
    output = torch.empty_like(x)
    with device_of(x):
        _forward_variant(x.dtype).launch(
            cdiv(x.numel(), ELEMENTS),
            x_pointer=x,
            output_pointer=output,
            count=x.numel(),
            threshold=threshold,
        )
    return output


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    output = torch.empty_like(x)
    with device_of(x):
        _backward_variant(x.dtype).launch(
            cdiv(x.numel(), ELEMENTS),
            gradient_pointer=grad,
            x_pointer=x,
            output_pointer=output,
            count=x.numel(),
            threshold=threshold,
        )
    return output


def multiply(left: Tensor, right: Tensor) -> Tensor:
    return triton_gemm.multiply(left, right)[0]


def encode(problem: Problem, start: Tensor) -> Tensor:
    correlation, gram, energy, penalty, tolerance, steps = problem
    rows, atoms = start.shape
    gram = gram.contiguous()
    step_size = 1 / eager.largest_eigenvalue(gram)
    code, previous = start.clone(memory_format=torch.contiguous_format), start.contiguous().clone()
    previous_product = triton_gemm.multiply(previous, gram, kind="float32")[0]
    state = energy.new_tensor([[1.0], [0.0], [torch.inf]]).repeat(1, rows)
    done = torch.zeros(rows, dtype=torch.int32, device=start.device)
    with device_of(start):
        for step in range(steps):
            if step % STEPS_PER_CHECK == STEPS_PER_CHECK - 1 and done.all():
                break
            product = triton_gemm.multiply(code, gram, kind="float32")[0]
            _step_variant().launch(
                rows,
                correlation_pointer=correlation,
                energy_pointer=energy,
                product_pointer=product,
                code_pointer=code,
                previous_pointer=previous,
                previous_product_pointer=previous_product,
                state_pointer=state,
                done_pointer=done,
                rows=rows,
                atoms=atoms,
                penalty=penalty,
                tolerance=tolerance,
                step_size=step_size,
            )
    return code
