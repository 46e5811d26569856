# mypy: allow-untyped-defs
"""Sparse coding on the GPU: FISTA over all atoms, a product and a kernel a step.

The product is triton_gemm's, in full float32 whatever the precision, for the steps would never come
to rest in a lower one. The kernel does the rest of the step, a program a row: no row's result
depends on another's.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from aefast.ops.shared import triton_gemm
from aefast.ops.shared.triton import TYPE_NAMES, Variant, device_of, round_to
from aefast.ops.sparse_coding import eager
from aefast.ops.sparse_coding.problem import Problem

ELEMENTS = 1024  # a program of an elementwise kernel
COLUMNS = 1024  # what a program holds of a row at a time
# As often the host asks whether all rows are done; it must wait for the answer.
STEPS_PER_CHECK = 16

# See eager.stands_still, squared.
SMALLEST_CHANGE = tl.constexpr((4 * torch.finfo(torch.float32).eps) ** 2)


@triton.jit
def _soft(x, threshold):
    magnitude = tl.abs(x) - threshold
    return tl.where(magnitude <= 0.0, 0.0, tl.where(x < 0.0, -magnitude, magnitude))


@triton.jit(
    do_not_specialize=["count"], do_not_specialize_on_alignment=["x_pointer", "output_pointer"]
)
def soft_threshold_kernel(
    x_pointer,  # [count]
    output_pointer,  # [count]
    count: tl.int64,
    threshold: tl.float32,
    ELEMENTS: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    mask = index < count
    x = tl.load(x_pointer + index, mask=mask)
    output = _soft(x.to(tl.float32), threshold)
    tl.store(output_pointer + index, round_to(output, x.dtype), mask=mask)


@triton.jit(
    do_not_specialize=["count"],
    do_not_specialize_on_alignment=["gradient_pointer", "x_pointer", "output_pointer"],
)
def soft_threshold_backward_kernel(
    gradient_pointer,  # [count]
    x_pointer,  # [count]
    output_pointer,  # [count]
    count: tl.int64,
    threshold: tl.float32,
    ELEMENTS: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    mask = index < count
    x = tl.load(x_pointer + index, mask=mask).to(tl.float32)
    gradient = tl.load(gradient_pointer + index, mask=mask)
    output = tl.where(tl.abs(x) <= threshold, tl.zeros_like(gradient), gradient)
    tl.store(output_pointer + index, output, mask=mask)


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


@triton.jit(
    do_not_specialize=["rows", "atoms", "tolerance"],
    do_not_specialize_on_alignment=STEP_POINTERS,
)
def step_kernel(
    correlation_pointer,  # [rows, atoms]
    energy_pointer,  # [rows]
    product_pointer,  # [rows, atoms]: code Gram
    code_pointer,  # [rows, atoms], which the step changes, as all that follow
    previous_pointer,  # [rows, atoms]
    previous_product_pointer,  # [rows, atoms]
    state_pointer,  # [3, rows]: the momentum, its weight in this step, and the last gap
    done_pointer,  # [rows]: 1 where a row has ended
    rows: tl.int32,
    atoms: tl.int32,
    penalty: tl.float32,
    tolerance: tl.float32,
    step_size: tl.float32,
    COLUMNS: tl.constexpr,
):
    """The step of eager.encode in one row; the steps' starting points have the same combination of
    two products as of two codes."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(done_pointer + row) == 0:
        start = row * atoms
        index = tl.arange(0, COLUMNS)
        largest = tl.zeros((COLUMNS,), tl.float32)
        magnitude = tl.zeros((COLUMNS,), tl.float32)
        aligned = tl.zeros((COLUMNS,), tl.float32)
        explained = tl.zeros((COLUMNS,), tl.float32)
        norm = tl.zeros((COLUMNS,), tl.float32)
        change = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, atoms, COLUMNS):
            mask = first + index < atoms
            place = start + first + index
            code = tl.load(code_pointer + place, mask=mask, other=0.0)
            previous = tl.load(previous_pointer + place, mask=mask, other=0.0)
            correlation = tl.load(correlation_pointer + place, mask=mask, other=0.0)
            slope = correlation - tl.load(product_pointer + place, mask=mask, other=0.0)
            largest = tl.maximum(largest, tl.abs(slope))
            magnitude += tl.abs(code) * penalty - code * slope
            aligned += code * slope
            explained += code * (correlation + slope)
            norm += code * code
            change += (code - previous) * (code - previous)
        # With scale = 1 - excess the duality gap's second term is |z| penalty - z Dr + excess z Dr.
        most = tl.max(largest, 0)
        excess = tl.maximum(most - penalty, 0.0) / tl.maximum(most, penalty)
        energy = tl.load(energy_pointer + row)
        squared_residual = tl.maximum(energy - tl.sum(explained, 0), 0.0)
        gap = excess * excess / 2 * squared_residual
        gap += tl.sum(magnitude, 0) + excess * tl.sum(aligned, 0)
        last_gap = tl.load(state_pointer + 2 * rows.to(tl.int64) + row)
        stands_still = tl.sum(change, 0) <= tl.sum(norm, 0) * SMALLEST_CHANGE
        if (gap <= tolerance * energy / 2) | (stands_still & (gap >= last_gap)):
            tl.store(done_pointer + row, 1)
        else:
            weight = tl.load(state_pointer + rows + row)
            along = tl.zeros((COLUMNS,), tl.float32)
            for first in range(0, atoms, COLUMNS):
                mask = first + index < atoms
                place = start + first + index
                code = tl.load(code_pointer + place, mask=mask, other=0.0)
                product = tl.load(product_pointer + place, mask=mask, other=0.0)
                previous = tl.load(previous_pointer + place, mask=mask, other=0.0)
                before = tl.load(previous_product_pointer + place, mask=mask, other=0.0)
                correlation = tl.load(correlation_pointer + place, mask=mask, other=0.0)
                point = code + weight * (code - previous)
                point_product = product + weight * (product - before)
                following = _soft(
                    point + step_size * (correlation - point_product), step_size * penalty
                )
                along += (following - point) * (following - code)
                tl.store(previous_pointer + place, code, mask=mask)
                tl.store(previous_product_pointer + place, product, mask=mask)
                tl.store(code_pointer + place, following, mask=mask)
            momentum = tl.load(state_pointer + row)
            next_momentum = (1.0 + tl.sqrt(1.0 + 4.0 * momentum * momentum)) / 2.0
            weight = (momentum - 1.0) / next_momentum
            uphill = tl.sum(along, 0) < 0.0
            tl.store(state_pointer + row, tl.where(uphill, 1.0, next_momentum))
            tl.store(state_pointer + rows + row, tl.where(uphill, 0.0, weight))
            tl.store(state_pointer + 2 * rows.to(tl.int64) + row, gap)


def _elementwise(kernel: object, dtype: torch.dtype, pointers: list[str]) -> Variant:
    types = dict.fromkeys(pointers, f"*{TYPE_NAMES[dtype]}")
    return Variant(kernel, types, {"ELEMENTS": ELEMENTS})


def _forward_variant(dtype: torch.dtype) -> Variant:
    return _elementwise(soft_threshold_kernel, dtype, ["x_pointer", "output_pointer"])


def _backward_variant(dtype: torch.dtype) -> Variant:
    pointers = ["gradient_pointer", "x_pointer", "output_pointer"]
    return _elementwise(soft_threshold_backward_kernel, dtype, pointers)


def _step_variant() -> Variant:
    types = dict.fromkeys(STEP_POINTERS, "*fp32") | {"done_pointer": "*i32"}
    return Variant(step_kernel, types, {"COLUMNS": COLUMNS})


def variants(generation: int) -> Iterator[Variant]:
    """Every binary but the products', which are triton_gemm's; the same on all generations."""
    for dtype in TYPE_NAMES:
        yield _forward_variant(dtype)
        yield _backward_variant(dtype)
    yield _step_variant()


def soft_threshold(x: Tensor, threshold: float) -> Tensor:
    x = x.contiguous()
    output = torch.empty_like(x)
    with device_of(x):
        _forward_variant(x.dtype).launch(
            triton.cdiv(x.numel(), ELEMENTS), x, output, x.numel(), threshold
        )
    return output


def soft_threshold_backward(grad: Tensor, x: Tensor, threshold: float) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    output = torch.empty_like(x)
    with device_of(x):
        _backward_variant(x.dtype).launch(
            triton.cdiv(x.numel(), ELEMENTS), grad, x, output, x.numel(), threshold
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
                rows, correlation, energy, product, code, previous, previous_product, state, done,
                rows, atoms, penalty, tolerance, step_size,
            )  # fmt: skip
    return code
