"""JumpReLU and gated codes on the GPU: a pass over a code, and one in backward.

The gradients of thresholds and of gates' parameters are sums over blocks of rows, then over the
blocks: without atomics, so the bits are the same in every run.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from aefast.ops.shared.triton import TYPE_NAMES, Variant, cdiv, device_of, strides_of
from aefast.ops.shared.triton_gemm import alignment, is_aligned

ROWS, COLUMNS = 8, 128  # the tile that a program computes at a time
STEPS = 16  # the tiles below each other that a program adds up
SUMMED_BLOCKS, SUMMED_COLUMNS = 16, 64
ESTIMATORS = {None: 0, "rectangle": 1, "tanh": 2}

Names = tuple[str, ...]
GATES: Names = ("product_pointer", "gate_bias_pointer", "scale_pointer", "magnitude_bias_pointer")


def _variant(
    kernel: str, dtype: torch.dtype, names: Names, in_float32: Names, constants: dict[str, int]
) -> Variant:
    """A kernel of pointers to elements of a dtype, and of others to float32."""
    types = dict.fromkeys(names, f"*{TYPE_NAMES[dtype]}") | dict.fromkeys(in_float32, "*fp32")
    return Variant(f"jumprelu.triton_kernels.{kernel}", types, constants)


def _tile(dtype: torch.dtype, aligned: bool) -> dict[str, int]:
    return {
        "ROWS": ROWS,
        "COLUMNS": COLUMNS,
        "ALIGNMENT": alignment(dtype),
        "ALIGNED": aligned,
    }


@cache
def _jumprelu_variant(dtype: torch.dtype, counted: bool, aligned: bool) -> Variant:
    names: Names = ("preactivation_pointer", "threshold_pointer", "values_pointer")
    active: Names = ("active_pointer",)
    names, in_float32 = (names, active) if counted else (names + active, ())
    constants = {"COUNTED": counted} | _tile(dtype, aligned)
    return _variant("jumprelu_kernel", dtype, names, in_float32, constants)


@cache
def _jumprelu_backward_variant(dtype: torch.dtype, aligned: bool) -> Variant:
    names = (
        "grad_values_pointer",
        "grad_active_pointer",
        "preactivation_pointer",
        "threshold_pointer",
        "grad_preactivation_pointer",
    )
    constants = _tile(dtype, aligned) | {"STEPS": STEPS}
    return _variant("jumprelu_backward_kernel", dtype, names, ("partial_pointer",), constants)


@cache
def _threshold_variant(dtype: torch.dtype) -> Variant:
    names = ("threshold_pointer", "grad_threshold_pointer")
    constants = {"BLOCKS": SUMMED_BLOCKS, "COLUMNS": SUMMED_COLUMNS}
    return _variant("threshold_kernel", dtype, names, ("partial_pointer",), constants)


@cache
def _gated_variant(dtype: torch.dtype, aligned: bool) -> Variant:
    names = *GATES, "values_pointer", "opened_pointer"
    return _variant("gated_kernel", dtype, names, ("totals_pointer",), _tile(dtype, aligned))


@cache
def _gated_backward_variant(dtype: torch.dtype, aligned: bool) -> Variant:
    names = *GATES, "grad_values_pointer", "grad_opened_pointer", "grad_product_pointer"
    in_float32 = ("grad_totals_pointer", "partial_pointer")
    constants = _tile(dtype, aligned) | {"STEPS": STEPS}
    return _variant("gated_backward_kernel", dtype, names, in_float32, constants)


@cache
def _active_latents_variant(dtype: torch.dtype) -> Variant:
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS, "STEPS": STEPS}
    return _variant(
        "active_latents_kernel", dtype, ("values_pointer",), ("counts_pointer",), constants
    )


def variants(generation: int) -> Iterator[Variant]:
    """The kernels of this file, the same on all generations."""
    for dtype in TYPE_NAMES:
        yield _threshold_variant(dtype)
        yield _active_latents_variant(dtype)
        for aligned in (True, False):
            for counted in (True, False):
                yield _jumprelu_variant(dtype, counted, aligned)
            yield _jumprelu_backward_variant(dtype, aligned)
            yield _gated_variant(dtype, aligned)
            yield _gated_backward_variant(dtype, aligned)


def forward(preactivation: Tensor, threshold: Tensor, counted: bool) -> tuple[Tensor, Tensor]:
    rows, columns = preactivation.shape
    blocks = cdiv(columns, COLUMNS)
    values = preactivation.new_empty(rows, columns)
    active = (
        values.new_empty(rows, blocks, dtype=torch.float32) if counted else torch.empty_like(values)
    )
    with device_of(preactivation):
        _jumprelu_variant(preactivation.dtype, counted, is_aligned(preactivation)).launch(
            cdiv(rows, ROWS) * blocks,
            preactivation_pointer=preactivation,
            threshold_pointer=threshold.contiguous(),
            values_pointer=values,
            active_pointer=active,
            rows=rows,
            columns=columns,
            **strides_of(preactivation=preactivation),
        )
    return values, active.sum(1) if counted else active


def backward(
    grad_values: Tensor,
    grad_active: Tensor,
    preactivation: Tensor,
    threshold: Tensor,
    bandwidth: float,
    estimator: str,
    threshold_needed: bool,
) -> tuple[Tensor, Tensor | None]:
    threshold = threshold.contiguous()
    rows, columns = preactivation.shape
    row_blocks = cdiv(rows, ROWS * STEPS)
    grad_preactivation = preactivation.new_empty(rows, columns)
    partials = threshold.new_empty(
        row_blocks if threshold_needed else 0, 2, columns, dtype=torch.float32
    )
    aligned = is_aligned(preactivation) and is_aligned(grad_values)
    with device_of(preactivation):
        _jumprelu_backward_variant(preactivation.dtype, aligned).launch(
            row_blocks * cdiv(columns, COLUMNS),
            grad_values_pointer=grad_values,
            grad_active_pointer=grad_active,
            preactivation_pointer=preactivation,
            threshold_pointer=threshold,
            grad_preactivation_pointer=grad_preactivation,
            partial_pointer=partials,
            rows=rows,
            columns=columns,
            **strides_of(
                grad_values=grad_values, grad_active=grad_active, preactivation=preactivation
            ),
            bandwidth=bandwidth,
            estimator=ESTIMATORS[estimator if threshold_needed else None],
        )
    grad_threshold = _threshold_gradient(partials, threshold, bandwidth) if len(partials) else None
    return grad_preactivation, grad_threshold


def _threshold_gradient(partials: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    grad_threshold = torch.empty_like(threshold)
    with device_of(threshold):
        _threshold_variant(threshold.dtype).launch(
            cdiv(len(threshold), SUMMED_COLUMNS),
            partial_pointer=partials,
            threshold_pointer=threshold,
            grad_threshold_pointer=grad_threshold,
            columns=len(threshold),
            row_blocks=len(partials),
            bandwidth=bandwidth,
        )
    return grad_threshold


def gated(product: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = product.shape
    blocks = cdiv(columns, COLUMNS)
    values, opened = product.new_empty(rows, columns), product.new_empty(rows, columns)
    totals = product.new_empty(rows, blocks, dtype=torch.float32)
    with device_of(product):
        _gated_variant(product.dtype, is_aligned(product)).launch(
            cdiv(rows, ROWS) * blocks,
            **_gates(product, *parameters),
            values_pointer=values,
            opened_pointer=opened,
            totals_pointer=totals,
        )
    return values, opened, totals.sum(1)


def gated_backward(
    grads: Sequence[Tensor | None], product: Tensor, *parameters: Tensor
) -> tuple[Tensor, ...]:
    rows, columns = product.shape
    by_values, by_opened, by_totals = (
        product.new_zeros((), dtype=dtype).expand(shape) if grad is None else grad
        for grad, dtype, shape in zip(
            grads,
            (product.dtype, product.dtype, torch.float32),
            (product.shape, product.shape, (rows,)),
            strict=True,
        )
    )
    row_blocks = cdiv(rows, ROWS * STEPS)
    grad_product = product.new_empty(rows, columns)
    partials = product.new_empty(row_blocks, 3, columns, dtype=torch.float32)
    aligned = all(map(is_aligned, (product, by_values, by_opened)))
    with device_of(product):
        _gated_backward_variant(product.dtype, aligned).launch(
            row_blocks * cdiv(columns, COLUMNS),
            **_gates(product, *parameters),
            grad_values_pointer=by_values,
            grad_opened_pointer=by_opened,
            grad_totals_pointer=by_totals,
            grad_product_pointer=grad_product,
            partial_pointer=partials,
            **strides_of(grad_values=by_values, grad_opened=by_opened),
            grad_totals_stride=by_totals.stride(0),
        )
    return grad_product, *partials.sum(0).to(product.dtype).unbind()


def _gates(product: Tensor, *parameters: Tensor) -> dict[str, Tensor | int]:
    """The arguments that both kernels of a gated code have."""
    dense = (parameter.contiguous() for parameter in parameters)
    return dict(zip(GATES, (product, *dense), strict=True)) | {
        "rows": product.shape[0],
        "columns": product.shape[1],
        **strides_of(product=product),
    }


def active_latents(values: Tensor) -> Tensor:
    rows, columns = values.shape
    row_blocks = cdiv(rows, ROWS * STEPS)
    counts = values.new_empty(row_blocks, columns, dtype=torch.float32)
    with device_of(values):
        _active_latents_variant(values.dtype).launch(
            row_blocks * cdiv(columns, COLUMNS),
            values_pointer=values,
            counts_pointer=counts,
            rows=rows,
            columns=columns,
            **strides_of(values=values),
        )
    return counts.any(0)
