# mypy: allow-untyped-defs
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
def _round_to_tf32(x):
    """float32 x with 11 significant bits; the tensor cores would cut the others off."""
    bits = tl.where(x == x, x, 0.0).to(tl.uint32, bitcast=True)
    rounded = ((bits + 0x1000) & 0xFFFFE000).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)


@triton.jit
def _as_operand(x, dtype: tl.constexpr):
    """x for the tensor cores; the interpreter multiplies bfloat16 as if it were integers."""
    if INTERPRETED:
        return x.to(tl.float32)
    else:
        return x.to(dtype)


@triton.jit
def _split(x):
    """float32 x as the sum of three bfloat16 numbers, exactly, the largest first."""
    cut = (x.to(tl.uint32, bitcast=True) & 0xFFFF0000).to(tl.float32, bitcast=True)
    # Rounding leaves the least behind, but would make an infinity of the largest numbers.
    high = tl.where(tl.abs(x) < 3.3e38, round_to(x, tl.bfloat16).to(tl.float32), cut)
    middle = round_to(x - high, tl.bfloat16)
    low = x - high - middle.to(tl.float32)
    return (
        _as_operand(high, tl.bfloat16),
        _as_operand(middle, tl.bfloat16),
        _as_operand(low, tl.bfloat16),
    )


@triton.jit
def _multiply_float32(left, right, accumulator):
    """accumulator + left @ right by six bfloat16 products, smallest first."""
    left_high, left_middle, left_low = _split(left)
    right_high, right_middle, right_low = _split(right)
    product = tl.dot(left_low, right_high)
    product = tl.dot(left_high, right_low, product)
    product = tl.dot(left_middle, right_middle, product)
    product = tl.dot(left_middle, right_high, product)
    product = tl.dot(left_high, right_middle, product)
    # An infinity leaves NaN in its lower parts; the leading product alone then says what it gives.
    product = tl.where(product == product, product, 0.0)
    return accumulator + tl.dot(left_high, right_high, product)


@triton.jit
def _finish(
    accumulator,
    first_output_row,
    row_start,
    column_start,
    rows,
    padded_columns,
    output_pointer,
    preactivation_pointer,
    bias_pointer,
    bias_size,
    activation,
    keep_preactivation,
    FUSED: tl.constexpr,
):
    """Add the bias, apply the activation and store, a narrow part of the tile at a time.

    An activation needs registers for every element in flight; a whole wide tile at once spills.
    """
    ROWS: tl.constexpr = accumulator.shape[0]
    COLUMNS: tl.constexpr = accumulator.shape[1]
    if COLUMNS > 32:
        halves = accumulator.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1)
        first, second = tl.split(halves)
        _finish(
            first, first_output_row, row_start, column_start, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, activation, keep_preactivation, FUSED,
        )  # fmt: skip
        _finish(
            second, first_output_row, row_start, column_start + COLUMNS // 2, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, activation, keep_preactivation, FUSED,
        )  # fmt: skip
    else:
        row = row_start + tl.arange(0, ROWS)
        column = column_start + tl.arange(0, COLUMNS)
        offset = (first_output_row + row)[:, None] * padded_columns + column[None, :]
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        dtype: tl.constexpr = output_pointer.dtype.element_ty
        if FUSED:
            bias = tl.load(bias_pointer + column, mask=column < bias_size, other=0.0)
            accumulator += bias.to(tl.float32)[None, :]
            if keep_preactivation != 0:
                pointers = tl.multiple_of(preactivation_pointer + offset, [1, 16])
                tl.store(pointers, round_to(accumulator, dtype), mask=mask)
            accumulator = activate(accumulator, activation)
        pointers = tl.multiple_of(output_pointer + offset, [1, 16])
        tl.store(pointers, round_to(accumulator, dtype), mask=mask)


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
    ROUND: tl.constexpr,  # to TF32 here; where the descriptors do it, tiles arrive rounded
    FLATTEN: tl.constexpr,  # one loop over all tiles: the next one's loads start before a store
):
    """output = act(left @ right.T + bias)."""
    row_tiles = tl.cdiv(rows, BLOCK_ROWS)
    column_tiles = tl.cdiv(columns, BLOCK_COLUMNS)
    tiles = row_tiles * column_tiles
    steps = tl.cdiv(tl.cdiv(depth, BLOCK_DEPTH), splits)
    padded_columns = tl.cdiv(columns, UNIT) * UNIT
    for task in tl.range(tl.program_id(0), tiles * splits, tl.num_programs(0), flatten=FLATTEN):
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
                if ROUND:
                    left_tile = _round_to_tf32(left_tile)
                    right_tile = _round_to_tf32(right_tile)
                accumulator = tl.dot(left_tile, right_tile, accumulator, input_precision="tf32")
            else:
                accumulator = _multiply_float32(left_tile, right_tile, accumulator)

        _finish(
            accumulator, split.to(tl.int64) * rows, row_start, column_start, rows, padded_columns,
            output_pointer, preactivation_pointer, bias_pointer,
            bias_size, activation, keep_preactivation, not LEFT_BY_DEPTH,
        )  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "rows",
        "columns",
        "padded_columns",
        "grad_row_stride",
        "grad_column_stride",
        "saved_row_stride",
        "saved_column_stride",
        "activation",
    ],
    do_not_specialize_on_alignment=[
        "grad_pointer",
        "saved_pointer",
        "grad_preactivation_pointer",
        "partial_pointer",
    ],
)
def gradient_kernel(
    grad_pointer,  # [rows, columns], any strides, 0 among them
    saved_pointer,  # [rows, columns], any strides
    grad_preactivation_pointer,  # [rows, padded_columns], the padding written as 0
    partial_pointer,  # [row blocks, columns] float32: each block's share of the bias gradient
    rows: tl.int32,
    columns: tl.int32,
    padded_columns: tl.int32,
    grad_row_stride: tl.int64,
    grad_column_stride: tl.int64,
    saved_row_stride: tl.int64,
    saved_column_stride: tl.int64,
    activation: tl.int32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    UNIT: tl.constexpr,  # elements in 16 bytes
    ALIGNED: tl.constexpr,  # both inputs can be read 16 bytes at a time
):
    """The gradient at the pre-activation, and its column sums over STEPS * ROWS rows."""
    column_blocks = tl.cdiv(padded_columns, COLUMNS)
    row_block = tl.program_id(0) // column_blocks
    column = (tl.program_id(0) % column_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(STEPS):
        row = (row_block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        wide_row = row.to(tl.int64)[:, None]
        wide_column = column.to(tl.int64)[None, :]
        grad_pointers = grad_pointer + wide_row * grad_row_stride
        saved_pointers = saved_pointer + wide_row * saved_row_stride
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        if ALIGNED:
            grad_pointers = tl.multiple_of(grad_pointers + wide_column, [1, 16])
            saved_pointers = tl.multiple_of(saved_pointers + wide_column, [1, 16])
            mask = tl.max_constancy(mask, [1, UNIT])
        else:
            grad_pointers += wide_column * grad_column_stride
            saved_pointers += wide_column * saved_column_stride
        grad = tl.load(grad_pointers, mask=mask, other=0.0).to(tl.float32)
        saved = tl.load(saved_pointers, mask=mask, other=0.0).to(tl.float32)
        grad = activation_gradient(grad, saved, activation)
        total += grad
        pointers = grad_preactivation_pointer + wide_row * padded_columns + wide_column
        mask = (row < rows)[:, None] & (column < padded_columns)[None, :]
        tl.store(
            tl.multiple_of(pointers, [1, 16]),
            round_to(grad, grad_preactivation_pointer.dtype.element_ty),
            mask=tl.max_constancy(mask, [1, UNIT]),
        )
    partial = partial_pointer + row_block.to(tl.int64) * columns + column
    tl.store(partial, tl.sum(total, axis=0), mask=column < columns)


@dataclass(frozen=True)
class Tile:
    """What one program works on, and how."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    flatten: bool = False


# A large tile for products that fill the chip with it, and a small one for the others. A warp group
# of wgmma holds 64 rows, and 128x256 on two of them reads least from shared memory a product.
# float32's tiles are smaller for the registers, and on sm_100 for the tensor memory, that its
# products need.
TILES = {
    80: {
        "half": (Tile(128, 128, 64, 8, 4), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
    },
    90: {
        "half": (Tile(128, 256, 64, 8, 4, flatten=True), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 4), Tile(64, 64, 32, 4, 4)),
    },
    100: {
        "half": (Tile(128, 256, 64, 8, 4), Tile(64, 64, 64, 4, 4)),
        "float32": (Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3)),
        "tf32": (Tile(128, 128, 32, 8, 4), Tile(64, 64, 32, 4, 4)),
    },
}
GRADIENT_ROWS, GRADIENT_COLUMNS, GRADIENT_STEPS = 16, 128, 8
STEPS_PER_SPLIT = 16  # fewer would not pay for the partial sums' way through memory

DESCRIPTORS_ROUND = "round_f32_to_tf32" in TensorDescriptor.__dataclass_fields__


@dataclass(frozen=True)
class Plan:
    """How one product runs."""

    variant: Variant
    tile: Tile
    splits: int


@cache
def _chip(device: torch.device) -> tuple[int, int]:
    """(generation in the tables, multiprocessors)."""
    if device.type != "cuda":
        return 90, 4  # interpreted
    properties = torch.cuda.get_device_properties(device)
    # sm_120 has mma.sync and less shared memory than sm_100, and runs what sm_80 runs.
    generation = {9: 90, 10: 100, 11: 100}.get(properties.major, 80)
    return generation, properties.multi_processor_count


def _unit(dtype: torch.dtype) -> int:
    """Elements in 16 bytes: what a tensor descriptor and a vector access go by."""
    return 16 // dtype.itemsize


def _padded(columns: int, dtype: torch.dtype) -> int:
    return triton.cdiv(columns, _unit(dtype)) * _unit(dtype)


def _variant(
    generation: int,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
    kind: str,
    tile: Tile,
    layout: tuple[bool, bool],
) -> Variant:
    left_by_depth, right_by_depth = layout
    descriptors = generation >= 90
    types = {}
    for name, by_depth, size in (
        ("left", left_by_depth, tile.rows),
        ("right", right_by_depth, tile.columns),
    ):
        block = [tile.depth, size] if by_depth else [size, tile.depth]
        element = TYPE_NAMES[dtype]
        types[name] = f"tensordesc<{element}{block}>" if descriptors else f"*{element}"
    types["output_pointer"] = types["preactivation_pointer"] = f"*{TYPE_NAMES[output_dtype]}"
    types["bias_pointer"] = f"*{TYPE_NAMES[dtype]}"
    constants = {
        "BLOCK_ROWS": tile.rows,
        "BLOCK_COLUMNS": tile.columns,
        "BLOCK_DEPTH": tile.depth,
        "LEFT_BY_DEPTH": left_by_depth,
        "RIGHT_BY_DEPTH": right_by_depth,
        "UNIT": _unit(dtype),
        "DESCRIPTORS": descriptors,
        "TF32": kind == "tf32",
        "ROUND": not (descriptors and DESCRIPTORS_ROUND),
        "FLATTEN": tile.flatten,
    }
    return Variant(gemm_kernel, types, constants, tile.warps, tile.stages, tensor_cores=True)


def _gradient_variant(dtype: torch.dtype, aligned: bool) -> Variant:
    pointer = f"*{TYPE_NAMES[dtype]}"
    types = {
        "grad_pointer": pointer,
        "saved_pointer": pointer,
        "grad_preactivation_pointer": pointer,
        "partial_pointer": "*fp32",
    }
    constants = {
        "ROWS": GRADIENT_ROWS,
        "COLUMNS": GRADIENT_COLUMNS,
        "STEPS": GRADIENT_STEPS,
        "UNIT": _unit(dtype),
        "ALIGNED": aligned,
    }
    return Variant(gradient_kernel, types, constants)


def plan(
    generation: int,
    multiprocessors: int,
    dtype: torch.dtype,
    kind: str,
    shape: tuple[int, int, int],
    layout: tuple[bool, bool],
) -> Plan:
    """Choose the tile and the splits of one product.

    Only a weight's gradient (both operands stored by depth) is split: it alone is deep, the batch
    being its depth, and it has no activation that would have to wait for the whole sum.
    """
    rows, columns, depth = shape
    both_by_depth = all(layout)
    large, small = TILES[generation][kind]
    tiles = triton.cdiv(rows, large.rows) * triton.cdiv(columns, large.columns)
    tile, splits = large, 1
    if 2 * tiles < multiprocessors:
        if both_by_depth:
            splits = min(multiprocessors // tiles, depth // (STEPS_PER_SPLIT * large.depth))
        if splits < 2:
            tile, splits = small, 1
    output_dtype = torch.float32 if splits > 1 else dtype
    variant = _variant(generation, dtype, output_dtype, kind, tile, layout)
    return Plan(variant, tile, splits)


def variants(generation: int) -> Iterator[Variant]:
    """Every binary that :func:`forward` and :func:`backward` can launch."""
    for dtype in TYPE_NAMES:
        for kind in ("float32", "tf32") if dtype == torch.float32 else ("half",):
            tiles = TILES[generation][kind]
            for tile in tiles:
                for layout in ((False, False), (False, True), (True, True)):
                    yield _variant(generation, dtype, dtype, kind, tile, layout)
            if dtype != torch.float32:
                yield _variant(generation, dtype, torch.float32, kind, tiles[0], (True, True))
        for aligned in (True, False):
            yield _gradient_variant(dtype, aligned)


def _is_transposed(tensor: Tensor) -> bool:
    return tensor.stride(0) == 1 and tensor.stride(1) != 1


def _is_aligned(tensor: Tensor) -> bool:
    """Whether every row of a matrix is whole 16-byte units, in order, and starts at one."""
    unit = _unit(tensor.dtype)
    row_stride, column_stride = tensor.stride()
    return (
        column_stride == 1
        and tensor.shape[1] % unit == 0
        and row_stride % unit == 0
        and row_stride >= tensor.shape[1]
        and tensor.data_ptr() % 16 == 0
    )


def _aligned(tensor: Tensor) -> Tensor:
    """The matrix where the kernel can read it, else a copy, its rows filled up with zeros."""
    if _is_aligned(tensor):
        return tensor
    rows, columns = tensor.shape
    copy = tensor.new_zeros(rows, _padded(columns, tensor.dtype))
    copy[:, :columns] = tensor
    return copy


def _multiply(
    left: Tensor,
    right: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    keep_preactivation: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """act(left @ right.T + bias) for left [rows, depth], right [columns, depth].

    left may have more columns than right: zeros, to fill up its rows.
    """
    rows, (columns, depth), dtype = left.shape[0], right.shape, left.dtype
    if rows == 0 or columns == 0:
        output = left.new_empty(rows, columns)
        return output, output if keep_preactivation else None
    if depth == 0:
        left, right, depth = left.new_zeros(rows, 1), right.new_zeros(columns, 1), 1

    # By depth: what is contiguous is the other dimension, as in a transposed view. The kernel takes
    # a left operand so only for a weight's gradient, and leaves bias and activation out of it.
    right_by_depth = _is_transposed(right)
    plain = bias is None and activation == "identity"
    left_by_depth = plain and right_by_depth and _is_transposed(left)
    left = _aligned(left.T if left_by_depth else left)
    right = _aligned(right.T if right_by_depth else right)

    kind = "half"
    if dtype == torch.float32:
        kind = "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    generation, multiprocessors = _chip(left.device)
    layout = (left_by_depth, right_by_depth)
    chosen = plan(generation, multiprocessors, dtype, kind, (rows, columns, depth), layout)
    tile, splits = chosen.tile, chosen.splits
    output_dtype = torch.float32 if splits > 1 else dtype
    output = left.new_empty(splits, rows, _padded(columns, dtype), dtype=output_dtype)
    preactivation = torch.empty_like(output[0]) if keep_preactivation else output

    operands: list[Tensor | TensorDescriptor] = [left, right]
    if generation >= 90:
        operands = [
            _descriptor(left, left_by_depth, tile.rows, tile.depth, kind),
            _descriptor(right, right_by_depth, tile.columns, tile.depth, kind),
        ]
    tasks = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) * splits
    with device_of(left):
        chosen.variant.launch(
            min(tasks, multiprocessors) if tile.flatten else tasks,
            *operands,
            output,
            preactivation,
            left if bias is None else bias.contiguous(),
            left.stride(0),
            right.stride(0),
            rows,
            columns,
            depth,
            splits,
            0 if bias is None else columns,
            ACTIVATIONS[activation],
            int(keep_preactivation),
        )
    result = output.sum(0).to(dtype) if splits > 1 else output[0]
    return (
        result[:, :columns].contiguous(),
        preactivation[:, :columns].contiguous() if keep_preactivation else None,
    )


def _descriptor(
    tensor: Tensor, by_depth: bool, size: int, depth: int, kind: str
) -> TensorDescriptor:
    block = [depth, size] if by_depth else [size, depth]
    descriptor = TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)
    if kind == "tf32" and DESCRIPTORS_ROUND:
        descriptor.round_f32_to_tf32 = True
    return descriptor


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep_preactivation: bool
) -> tuple[Tensor, Tensor | None]:
    """(act(x Wt + b), the pre-activation if asked for); x [B, D], weight [H, D], bias [H]."""
    return _multiply(x, weight, bias, activation, keep_preactivation)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    saved: Tensor | None,
    activation: str,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of x, weight and bias that `needs` asks for, None for the others.

    saved: the pre-activation for gelu and silu, None for identity, else the output.
    """
    needs_x, needs_weight, needs_bias = needs
    grad_bias = None
    if saved is None:
        grad_preactivation = grad
        if needs_bias:
            grad_bias = grad.sum(0, dtype=torch.float32)
    else:
        grad_preactivation, partials = _activation_backward(grad, saved, activation)
        if needs_bias:
            grad_bias = partials.sum(0)
    grad_x = grad_weight = None
    if needs_x:
        grad_x, _ = _multiply(grad_preactivation, weight.T)
    if needs_weight:
        grad_weight, _ = _multiply(grad_preactivation.T, x.T)
        grad_weight = grad_weight[: grad.shape[1]]
    return grad_x, grad_weight, None if grad_bias is None else grad_bias.to(grad.dtype)


def _activation_backward(grad: Tensor, saved: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The gradient at the pre-activation, its rows filled up with zeros, and each row block's
    column sums: added in the order of the blocks they are the same in every run."""
    rows, columns = grad.shape
    padded_columns = _padded(columns, grad.dtype)
    row_blocks = triton.cdiv(rows, GRADIENT_ROWS * GRADIENT_STEPS)
    column_blocks = triton.cdiv(columns, GRADIENT_COLUMNS)
    grad_preactivation = grad.new_empty(rows, padded_columns)
    partials = grad.new_empty(row_blocks, columns, dtype=torch.float32)
    if grad.numel() > 0:
        variant = _gradient_variant(grad.dtype, _is_aligned(grad) and _is_aligned(saved))
        with device_of(grad):
            variant.launch(
                row_blocks * column_blocks,
                grad,
                saved,
                grad_preactivation,
                partials,
                rows,
                columns,
                padded_columns,
                *grad.stride(),
                *saved.stride(),
                ACTIVATIONS[activation],
            )
    return grad_preactivation, partials
