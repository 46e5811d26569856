"""A linear layer with its activation on the GPU: one persistent matrix kernel and its epilogue.

The same kernel makes the output, the input's gradient and the weight's; the activation is a number
it branches on once a tile, so that one binary serves all eight. Where the chip has a tensor memory
accelerator (sm_90 on) tiles arrive through tensor descriptors, elsewhere through pointers.

float32 follows ``torch.get_float32_matmul_precision()``:

``"highest"``
    Six bfloat16 products. A float32 is the exact sum of three bfloat16 numbers, and the three
    products left out are under 2^-23 of the term they belong to. Tensor cores round their sums
    toward zero, a bias that grows with depth, so each block of the depth starts from zero and is
    added to the running sum by ordinary arithmetic. ``tf32x3`` keeps 22 bits of each factor and
    would miss float32's accuracy at small depths; ``ieee`` leaves the tensor cores idle.
``"high"``, ``"medium"``
    One TF32 product, as torch's own CUDA matmul does for both.

Reference: Ootomo, Yokota, "Recovering single precision accuracy from tensor cores while surpassing
the FP32 theoretical peak performance", IJHPCA 36, 2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from aefast.ops.shared.triton import (
    ACTIVATIONS,
    INTERPRETED,
    TYPE_NAMES,
    Variant,
    activate,
    activation_gradient,
    device_of,
    round_to,
)

GROUP = tl.constexpr(8)  # row tiles that share a column tile's right operand in the L2


@triton.jit
def _load_tile(
    source,  # a tensor descriptor, or a pointer to [rows, columns], rows 16-byte aligned
    row_stride,
    row_start,
    column_start,
    rows,
    columns,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
):
    if DESCRIPTORS:
        tile = source.load([row_start, column_start])
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        pointers = source + row.to(tl.int64)[:, None] * row_stride + column[None, :]
        # Rows are padded to whole units: the mask, too, is constant over every 16 bytes.
        mask = (row < rows)[:, None] & (column < tl.cdiv(columns, UNIT) * UNIT)[None, :]
        tile = tl.load(tl.multiple_of(pointers, [1, 16]), mask=mask, other=0.0)
    return tile


@triton.jit
def _leading(x):
    """float32 x cut to the 8 significant bits of a bfloat16."""
    return (x.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def _as_operand(x, dtype: tl.constexpr):
    """x for the tensor cores; the interpreter multiplies bfloat16 as if it were integers."""
    if INTERPRETED:
        return x.to(tl.float32)
    else:
        return x.to(dtype)


@triton.jit
def _multiply_float32(left, right, accumulator):
    """accumulator + left @ right by six bfloat16 products, smallest first."""
    left_high = _leading(left)
    left_middle = _leading(left - left_high)
    left_low = _as_operand(left - left_high - left_middle, tl.bfloat16)
    left_middle = _as_operand(left_middle, tl.bfloat16)
    left_high = _as_operand(left_high, tl.bfloat16)
    right_high = _leading(right)
    right_middle = _leading(right - right_high)
    right_low = _as_operand(right - right_high - right_middle, tl.bfloat16)
    right_middle = _as_operand(right_middle, tl.bfloat16)
    right_high = _as_operand(right_high, tl.bfloat16)
    product = tl.dot(left_low, right_high)
    product = tl.dot(left_high, right_low, product)
    product = tl.dot(left_middle, right_middle, product)
    product = tl.dot(left_middle, right_high, product)
    product = tl.dot(left_high, right_middle, product)
    # An infinity leaves NaN in its lower parts; the leading product alone then says what it gives.
    product = tl.where(product == product, product, 0.0)
    return accumulator + tl.dot(left_high, right_high, product)


@triton.jit(
    do_not_specialize=[
        "left_row_stride",
        "right_row_stride",
        "rows",
        "columns",
        "depth",
        "splits",
        "bias_size",
        "activation",
        "keep_preactivation",
    ],
    do_not_specialize_on_alignment=[
        "left",
        "right",
        "output_pointer",
        "preactivation_pointer",
        "bias_pointer",
    ],
)
def gemm_kernel(
    left,  # [rows, depth]; stored [depth, rows] if LEFT_BY_DEPTH
    right,  # [columns, depth]; stored [depth, columns] if RIGHT_BY_DEPTH
    output_pointer,  # [splits, rows, columns padded to whole units]
    preactivation_pointer,  # [rows, columns padded], written only if keep_preactivation
    bias_pointer,  # [bias_size]
    left_row_stride: tl.int64,
    right_row_stride: tl.int64,
    rows: tl.int32,
    columns: tl.int32,
    depth: tl.int32,
    splits: tl.int32,  # parts that the depth is cut into, each summed on its own
    bias_size: tl.int32,  # columns, or 0 for no bias
    activation: tl.int32,
    keep_preactivation: tl.int32,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    LEFT_BY_DEPTH: tl.constexpr,
    RIGHT_BY_DEPTH: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
    DESCRIPTORS: tl.constexpr,
    TF32: tl.constexpr,
):
    """output = act(left @ right.T + bias)."""
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    tiles = row_tiles * column_tiles
    steps = tl.cdiv(tl.cdiv(depth, BLOCK_DEPTH), splits)
    padded_columns = tl.cdiv(columns, UNIT) * UNIT
    for task in tl.range(tl.program_id(0), tiles * splits, tl.num_programs(0), flatten=True):
        split = task // tiles
        tile = task % tiles
        group = tile // (GROUP * column_tiles)
        group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
        place = tile % (GROUP * column_tiles)
        row_start = (group * GROUP + place % group_rows) * BLOCK_ROWS
        column_start = (place // group_rows) * BLOCK_COLUMNS

        accumulator = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
        for step in range(steps):
            depth_start = (split * steps + step) * BLOCK_DEPTH
            if LEFT_BY_DEPTH:
                left_tile = _load_tile(
                    left, left_row_stride, depth_start, row_start, depth, rows,
                    BLOCK_DEPTH, BLOCK_ROWS, UNIT, DESCRIPTORS,
                ).T  # fmt: skip
            else:
                left_tile = _load_tile(
                    left, left_row_stride, row_start, depth_start, rows, depth,
                    BLOCK_ROWS, BLOCK_DEPTH, UNIT, DESCRIPTORS,
                )  # fmt: skip
            if RIGHT_BY_DEPTH:
                right_tile = _load_tile(
                    right, right_row_stride, depth_start, column_start, depth, columns,
                    BLOCK_DEPTH, BLOCK_COLUMNS, UNIT, DESCRIPTORS,
                )  # fmt: skip
            else:
                right_tile = _load_tile(
                    right, right_row_stride, column_start, depth_start, columns, depth,
                    BLOCK_COLUMNS, BLOCK_DEPTH, UNIT, DESCRIPTORS,
                ).T  # fmt: skip
            if left_tile.dtype != tl.float32:
                accumulator = tl.dot(
                    _as_operand(left_tile, left_tile.dtype),
                    _as_operand(right_tile, right_tile.dtype),
                    accumulator,
                )
            elif TF32:
                accumulator = tl.dot(left_tile, right_tile, accumulator, input_precision="tf32")
            else:
                accumulator = _multiply_float32(left_tile, right_tile, accumulator)

        row = row_start + tl.arange(0, BLOCK_ROWS)
        column = column_start + tl.arange(0, BLOCK_COLUMNS)
        bias = tl.load(bias_pointer + column, mask=column < bias_size, other=0.0)
        accumulator += bias.to(tl.float32)[None, :]
        output_row = split.to(tl.int64) * rows + row
        offset = output_row[:, None] * padded_columns + column[None, :]
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        if keep_preactivation != 0:
            pointers = tl.multiple_of(preactivation_pointer + offset, [1, 16])
            tl.store(pointers, round_to(accumulator, preactivation_pointer.dtype.element_ty), mask=mask)
        output = round_to(activate(accumulator, activation), output_pointer.dtype.element_ty)
        tl.store(tl.multiple_of(output_pointer + offset, [1, 16]), output, mask=mask)
