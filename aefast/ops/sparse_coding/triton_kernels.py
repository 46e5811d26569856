# mypy: allow-untyped-defs
"""Soft thresholding and a step of FISTA on the GPU."""

import torch
import triton
import triton.language as tl

from aefast.ops.shared.triton_device import round_to
from aefast.ops.sparse_coding.triton import STEP_POINTERS

# The square of the relative change below which a code has converged: see eager.stands_still.
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


@triton.jit
def _duality_gap(
    correlation_pointer, product_pointer, code_pointer, previous_pointer,
    start, atoms, energy, penalty, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The duality gap of a row's code, and whether the code no longer changes."""
    index = tl.arange(0, COLUMNS)
    largest = tl.zeros((COLUMNS,), tl.float32)
    magnitude = tl.zeros((COLUMNS,), tl.float32)
    aligned = tl.zeros((COLUMNS,), tl.float32)
    explained = tl.zeros((COLUMNS,), tl.float32)
    norm = tl.zeros((COLUMNS,), tl.float32)
    change = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, atoms, COLUMNS):
        mask = first + index < atoms
        element = start + first + index
        code = tl.load(code_pointer + element, mask=mask, other=0.0)
        previous = tl.load(previous_pointer + element, mask=mask, other=0.0)
        correlation = tl.load(correlation_pointer + element, mask=mask, other=0.0)
        slope = correlation - tl.load(product_pointer + element, mask=mask, other=0.0)
        largest = tl.maximum(largest, tl.abs(slope))
        magnitude += tl.abs(code) * penalty - code * slope
        aligned += code * slope
        explained += code * (correlation + slope)
        norm += code * code
        change += (code - previous) * (code - previous)
    # The gap at the residual r scaled by 1 - excess: its second term is
    # |z| penalty - z Dr + excess z Dr.
    most = tl.max(largest, 0)
    excess = tl.maximum(most - penalty, 0.0) / tl.maximum(most, penalty)
    squared_residual = tl.maximum(energy - tl.sum(explained, 0), 0.0)
    gap = excess * excess / 2 * squared_residual
    gap += tl.sum(magnitude, 0) + excess * tl.sum(aligned, 0)
    return gap, tl.sum(change, 0) <= tl.sum(norm, 0) * SMALLEST_CHANGE


@triton.jit
def _take_step(
    correlation_pointer, product_pointer, code_pointer, previous_pointer, previous_product_pointer,
    start, atoms, weight, penalty, step_size, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Step from the extrapolated point; returns (next - point) (next - code), below 0 where the
    momentum points uphill.

    The point is a combination of two codes, so its product with the Gram matrix is the same
    combination of theirs, which are kept.
    """
    index = tl.arange(0, COLUMNS)
    along = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, atoms, COLUMNS):
        mask = first + index < atoms
        element = start + first + index
        code = tl.load(code_pointer + element, mask=mask, other=0.0)
        product = tl.load(product_pointer + element, mask=mask, other=0.0)
        previous = tl.load(previous_pointer + element, mask=mask, other=0.0)
        previous_product = tl.load(previous_product_pointer + element, mask=mask, other=0.0)
        correlation = tl.load(correlation_pointer + element, mask=mask, other=0.0)
        point = code + weight * (code - previous)
        point_product = product + weight * (product - previous_product)
        following = _soft(point + step_size * (correlation - point_product), step_size * penalty)
        along += (following - point) * (following - code)
        tl.store(previous_pointer + element, code, mask=mask)
        tl.store(previous_product_pointer + element, product, mask=mask)
        tl.store(code_pointer + element, following, mask=mask)
    return tl.sum(along, 0)


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
    """One FISTA step of eager.encode, in one row that has not converged."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(done_pointer + row) == 0:
        start = row * atoms
        energy = tl.load(energy_pointer + row)
        gap, stands_still = _duality_gap(
            correlation_pointer, product_pointer, code_pointer, previous_pointer,
            start, atoms, energy, penalty, COLUMNS,
        )  # fmt: skip
        last_gap = tl.load(state_pointer + 2 * rows.to(tl.int64) + row)
        if (gap <= tolerance * energy / 2) | (stands_still & (gap >= last_gap)):
            tl.store(done_pointer + row, 1)
        else:
            weight = tl.load(state_pointer + rows + row)
            along = _take_step(
                correlation_pointer, product_pointer, code_pointer, previous_pointer,
                previous_product_pointer, start, atoms, weight, penalty, step_size, COLUMNS,
            )  # fmt: skip
            momentum = tl.load(state_pointer + row)
            next_momentum = (1.0 + tl.sqrt(1.0 + 4.0 * momentum * momentum)) / 2.0
            weight = (momentum - 1.0) / next_momentum
            uphill = along < 0.0
            tl.store(state_pointer + row, tl.where(uphill, 1.0, next_momentum))
            tl.store(state_pointer + rows + row, tl.where(uphill, 0.0, weight))
            tl.store(state_pointer + 2 * rows.to(tl.int64) + row, gap)
